//! How an app writes dates and numbers as text, where that is not a form which everybody reads alike.
//!
//! `01/02/2024` and `1,234` mean different things in different countries, so without being told the relay places neither
//! (see [`super::coerce`]). Formats are for texts only, and a text that is not in the format is left as it is: the type's
//! own rules have the last word.

use std::borrow::Cow;

use serde_json::{Number, Value};

/// How one attribute's texts are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Date(DateFormat),
    Number(NumberFormat),
}

/// The order of day, month and year, and the character between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateFormat {
    order: [DatePart; 3],
    separator: char,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DatePart {
    Day,
    Month,
    Year,
}

/// The character between thousands, where there is one, and the one before decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberFormat {
    thousands: Option<char>,
    decimal: char,
}

impl DateFormat {
    /// `DD/MM/YYYY`, `MM-DD-YYYY`, `YYYY.MM.DD`: each part once, one character between them.
    pub fn parse(text: &str) -> Option<Self> {
        let separator = text.chars().find(|c| !c.is_ascii_alphanumeric())?;
        let mut parts = text.split(separator).map(|part| match part {
            "DD" => Some(DatePart::Day),
            "MM" => Some(DatePart::Month),
            "YYYY" => Some(DatePart::Year),
            _ => None,
        });
        let order = [parts.next()??, parts.next()??, parts.next()??];
        let each_once = order[0] != order[1] && order[0] != order[2] && order[1] != order[2];
        (each_once && parts.next().is_none()).then_some(Self { order, separator })
    }

    /// The day in ISO 8601. What follows behind a blank or a `T`, a time, is left out.
    fn read(self, text: &str) -> Option<String> {
        let day = text.trim().split([' ', 'T']).next()?;
        let mut parts = day.split(self.separator);
        let (mut year, mut month, mut date) = (None, None, None);
        for part in self.order {
            let digits = parts.next().filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
            match part {
                DatePart::Year if digits.len() == 4 => year = digits.parse::<i16>().ok(),
                DatePart::Month if digits.len() <= 2 => month = digits.parse::<i8>().ok(),
                DatePart::Day if digits.len() <= 2 => date = digits.parse::<i8>().ok(),
                DatePart::Year | DatePart::Month | DatePart::Day => return None,
            }
        }
        if parts.next().is_some() {
            return None;
        }
        jiff::civil::Date::new(year?, month?, date?).ok().map(|date| date.to_string())
    }
}

impl NumberFormat {
    /// The forms that there are, each written as 1234.56.
    pub const FORMS: [(&'static str, NumberFormat); 5] = [
        ("1,234.56", NumberFormat { thousands: Some(','), decimal: '.' }),
        ("1.234,56", NumberFormat { thousands: Some('.'), decimal: ',' }),
        ("1 234,56", NumberFormat { thousands: Some(' '), decimal: ',' }),
        ("1'234.56", NumberFormat { thousands: Some('\''), decimal: '.' }),
        ("1234,56", NumberFormat { thousands: None, decimal: ',' }),
    ];

    /// Groups of thousands have to be whole: `1,23` is no number in `1,234.56`.
    fn read(self, text: &str) -> Option<Number> {
        let text = text.trim();
        let (sign, digits) = match text.strip_prefix('-') {
            Some(rest) => ("-", rest),
            None => ("", text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, decimals) = match digits.split_once(self.decimal) {
            Some((whole, decimals)) => (whole, Some(decimals)),
            None => (digits, None),
        };
        let groups: Vec<&str> = match self.thousands {
            Some(thousands) => whole.split(thousands).collect(),
            None => vec![whole],
        };
        let all_digits = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let well_grouped =
            groups[1..].iter().all(|group| group.len() == 3) && (groups.len() == 1 || groups[0].len() <= 3);
        if !groups.iter().chain(&decimals).all(all_digits) || !well_grouped {
            return None;
        }
        let whole = groups.concat();
        match decimals {
            None => format!("{sign}{whole}").parse().ok(),
            Some(decimals) => Number::from_f64(format!("{sign}{whole}.{decimals}").parse().ok()?),
        }
    }
}

impl Format {
    /// `value` in the form that every attribute type reads: the date in ISO 8601, the number as a number.
    pub fn read(self, value: &Value) -> Cow<'_, Value> {
        let Value::String(text) = value else { return Cow::Borrowed(value) };
        let read = match self {
            Format::Date(format) => format.read(text).map(Value::String),
            Format::Number(format) => format.read(text).map(Value::Number),
        };
        read.map_or(Cow::Borrowed(value), Cow::Owned)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dates_are_read_in_the_order_that_is_written() {
        let date =
            |format: &str, text: &str| Format::Date(DateFormat::parse(format).unwrap()).read(&json!(text)).into_owned();
        for (format, text, expected) in [
            ("DD/MM/YYYY", "01/02/2024", "2024-02-01"),
            ("MM/DD/YYYY", "01/02/2024", "2024-01-02"),
            ("DD.MM.YYYY", "1.2.2024 10:30", "2024-02-01"),
            ("YYYY/MM/DD", "2024/02/01", "2024-02-01"),
            ("DD/MM/YYYY", "31/02/2024", "31/02/2024"),
            ("DD/MM/YYYY", "2024-02-01", "2024-02-01"),
            ("DD/MM/YYYY", "01/02/24", "01/02/24"),
            ("DD/MM/YYYY", "soon", "soon"),
        ] {
            assert_eq!(date(format, text), expected, "{text} as {format}");
        }
        for format in ["DD/MM", "DD/DD/YYYY", "DD/MM-YYYY", "dd/mm/yyyy", "%d/%m/%Y", "DDMMYYYY", "DD/MM/YYYY/DD"] {
            assert_eq!(DateFormat::parse(format), None, "{format}");
        }
    }

    #[test]
    fn numbers_are_read_with_their_separators() {
        for (form, text, expected) in [
            ("1,234.56", "1,234.56", json!(1234.56)),
            ("1,234.56", "12", json!(12)),
            ("1,234.56", "-1,234,567", json!(-1_234_567)),
            ("1,234.56", "1,23", json!("1,23")),
            ("1.234,56", "1.234,5", json!(1234.5)),
            ("1.234,56", "1.5", json!("1.5")),
            ("1 234,56", "1 234", json!(1234)),
            ("1'234.56", "1'234.50", json!(1234.5)),
            ("1234,56", "3,5", json!(3.5)),
            ("1234,56", ",5", json!(",5")),
            ("1,234.56", "", json!("")),
        ] {
            let (_, format) = NumberFormat::FORMS.into_iter().find(|(name, _)| *name == form).unwrap();
            assert_eq!(Format::Number(format).read(&json!(text)).into_owned(), expected, "{text} as {form}");
        }
    }

    #[test]
    fn what_is_no_text_stays() {
        let format = Format::Date(DateFormat::parse("DD/MM/YYYY").unwrap());
        for value in [json!(1_705_311_000), json!(null), json!(["01/02/2024"])] {
            assert_eq!(format.read(&value).as_ref(), &value);
        }
    }
}
