//! The file of a company import: the first row names the attributes (contract §6), values are quoted as RFC 4180 has it.

use std::collections::{BTreeMap, BTreeSet};

use super::CompanyId;
use crate::brevo::coerce::AttributeValue;

/// One row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Of the company that is updated; none: a new one is made.
    pub id: Option<CompanyId>,
    /// By internal name, `name` among them.
    pub attributes: BTreeMap<String, AttributeValue>,
}

/// Whether an import can carry the value as it is meant. How booleans, dates and lists are read from a file is not
/// documented.
pub fn carries(value: &AttributeValue) -> bool {
    match value {
        AttributeValue::Text(text) => !text.is_empty() && !text.contains(['\r', '\n', '\0']),
        AttributeValue::Number(_) => true,
        AttributeValue::Bool(_) | AttributeValue::Options(_) | AttributeValue::Null => false,
    }
}

/// The file. A row that lacks an attribute of another row has an empty cell there, which changes nothing.
pub fn file(rows: &[Row]) -> String {
    let columns: BTreeSet<&str> = rows.iter().flat_map(|row| row.attributes.keys()).map(String::as_str).collect();
    let with_id = rows.iter().any(|row| row.id.is_some());
    let mut out = String::new();
    let header = with_id.then_some("company_id").into_iter().chain(columns.iter().copied());
    line(&mut out, header);
    for row in rows {
        let id = with_id.then(|| row.id.as_ref().map_or("", CompanyId::as_str).to_owned());
        let cells = columns.iter().map(|column| row.attributes.get(*column).map_or(String::new(), text));
        line(&mut out, id.into_iter().chain(cells));
    }
    out
}

fn text(value: &AttributeValue) -> String {
    match value {
        AttributeValue::Text(text) => text.clone(),
        AttributeValue::Number(number) => number.to_string(),
        AttributeValue::Bool(value) => value.to_string(),
        AttributeValue::Options(options) => options.join(", "),
        AttributeValue::Null => String::new(),
    }
}

fn line(out: &mut String, cells: impl IntoIterator<Item = impl AsRef<str>>) {
    for (index, cell) in cells.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let cell = cell.as_ref();
        // Blanks at an end are kept only inside quotes.
        if cell.contains([',', '"', ';']) || cell.trim() != cell {
            out.push('"');
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(cell);
        }
    }
    out.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_share_their_columns_and_cells_are_quoted_where_they_must() {
        let row = |id: Option<&str>, cells: &[(&str, AttributeValue)]| Row {
            id: id.map(|id| CompanyId::parse(id).unwrap()),
            attributes: cells.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        };
        let text = |text: &str| AttributeValue::Text(text.to_owned());
        let rows = [
            row(Some("a1"), &[("name", text("Ada, \"Sons\"")), ("revenue", AttributeValue::Number(12.into()))]),
            row(Some("b2"), &[("industry", text("Steel"))]),
        ];
        let expected = "company_id,industry,name,revenue\r\na1,,\"Ada, \"\"Sons\"\"\",12\r\nb2,Steel,,\r\n";
        assert_eq!(file(&rows), expected);
        assert_eq!(file(&[row(None, &[("name", text("ACME"))])]), "name\r\nACME\r\n");
        assert!(!carries(&text("a\nb")) && !carries(&AttributeValue::Bool(true)) && carries(&text("a")));
    }
}
