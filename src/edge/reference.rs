//! The page at `/docs`: `openapi.yaml` for people to read, with nothing from elsewhere.
//!
//! Pure: the document in, a page out. It knows what OpenAPI's words mean, and nothing of the routes themselves.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::{Map, Value};

const STYLE: &str = include_str!("reference.css");
const METHODS: [&str; 4] = ["get", "post", "put", "delete"];

/// The page, whole.
pub fn page(document: &str) -> Result<String, serde_saphyr::Error> {
    let document: Value = serde_saphyr::from_str(document)?;
    Ok(Reference { document: &document }.page().into_string())
}

struct Operation<'a> {
    method: &'static str,
    path: &'a str,
    /// Those of the path come first.
    parameters: Vec<&'a Value>,
    is: &'a Value,
}

struct Reference<'a> {
    document: &'a Value,
}

impl<'a> Reference<'a> {
    fn page(&self) -> Markup {
        let info = &self.document["info"];
        let tags = list(&self.document["tags"]);
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (text(&info["title"])) " API" }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    nav aria-label="Operations" {
                        @for tag in tags { (self.contents(text(&tag["name"]))) }
                        h2 { a href="#keys" { "Keys" } }
                        h2 { a href="#schemas" { "Schemas" } }
                    }
                    main {
                        h1 { (text(&info["title"])) " API " (text(&info["version"])) }
                        (prose(&info["description"]))
                        p { "For programs: " a href="/openapi.yaml" { "openapi.yaml" } "." }
                        @for tag in tags { (self.group(tag)) }
                        section #keys {
                            h2 { "Keys" }
                            dl {
                                @for (name, key) in members_of(&self.document["components"]["securitySchemes"]) {
                                    dt id={ "key-" (name) } { (name) }
                                    dd { (prose(&key["description"])) }
                                }
                            }
                        }
                        section #schemas {
                            h2 { "Schemas" }
                            @for (name, schema) in members_of(&self.document["components"]["schemas"]) {
                                article id={ "schema-" (name) } {
                                    h3 { (name) }
                                    (prose(&schema["description"]))
                                    div { (shape(schema)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// What a reference within the document leads to; anything else is itself.
    fn resolved(&self, value: &'a Value) -> &'a Value {
        let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        pointer.and_then(|pointer| self.document.pointer(pointer)).unwrap_or(value)
    }

    fn operations(&self, tag: &str) -> Vec<Operation<'a>> {
        let mut found = Vec::new();
        for (path, item) in members_of(&self.document["paths"]) {
            for method in METHODS {
                let is = &item[method];
                if list(&is["tags"]).iter().any(|each| each == tag) {
                    let parameters = list(&item["parameters"]).iter().chain(list(&is["parameters"]));
                    let parameters = parameters.map(|parameter| self.resolved(parameter)).collect();
                    found.push(Operation { method, path, parameters, is });
                }
            }
        }
        found
    }

    fn contents(&self, tag: &str) -> Markup {
        html! {
            h2 { a href={ "#" (anchor(tag)) } { (tag) } }
            ul {
                @for operation in self.operations(tag) {
                    li {
                        a href={ "#" (text(&operation.is["operationId"])) } {
                            span .method { (operation.method) } " " (operation.path)
                        }
                    }
                }
            }
        }
    }

    fn group(&self, tag: &Value) -> Markup {
        let name = text(&tag["name"]);
        html! {
            section id=(anchor(name)) {
                h2 { (name) }
                (prose(&tag["description"]))
                @for operation in self.operations(name) { (self.operation(&operation)) }
            }
        }
    }

    fn operation(&self, operation: &Operation<'a>) -> Markup {
        let is = operation.is;
        let body = self.resolved(&is["requestBody"]);
        let keys = list(&is["security"]).iter().flat_map(members_of).map(|(name, _)| name);
        html! {
            article id=(text(&is["operationId"])) {
                h3 { span .method { (operation.method) } " " code { (operation.path) } }
                p { strong { (inline(text(&is["summary"]))) } }
                (prose(&is["description"]))
                @for (at, key) in keys.enumerate() {
                    (if at == 0 { "Opened by " } else { " or " }) a href={ "#key-" (key) } { (key) }
                }
                (parameters(&operation.parameters))
                @if !body.is_null() {
                    h4 { "Body" }
                    p { (inline(text(&body["description"]))) }
                    @for (kind, content) in members_of(&body["content"]) {
                        div { code { (kind) } ": " (shape(&content["schema"])) }
                    }
                }
                h4 { "Answers" }
                dl {
                    @for (status, answer) in members_of(&is["responses"]) { (self.answer(status, answer)) }
                }
            }
        }
    }

    fn answer(&self, status: &str, answer: &'a Value) -> Markup {
        let answer = self.resolved(answer);
        html! {
            dt { code { (status) } }
            dd {
                (inline(text(&answer["description"])))
                @for (name, _) in members_of(&answer["headers"]) { " " code { (name) } }
                @for (kind, content) in members_of(&answer["content"]) {
                    div { code { (kind) } @if let Some(schema) = content.get("schema") { ": " (shape(schema)) } }
                }
            }
        }
    }
}

fn parameters(parameters: &[&Value]) -> Markup {
    html! {
        @if !parameters.is_empty() {
            h4 { "Parameters" }
            ul {
                @for parameter in parameters {
                    li {
                        code { (text(&parameter["name"])) }
                        " in the " (text(&parameter["in"]))
                        @if parameter["required"] == true { ", " strong { "needed" } }
                        ": " (shape(&parameter["schema"]))
                        (remark(parameter))
                    }
                }
            }
        }
    }
}

/// What a schema takes, in words; a schema that has a name is a link to it.
fn shape(schema: &Value) -> Markup {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return html! { a href={ "#schema-" (name) } { (name) } };
    }
    for (key, word) in [("oneOf", " or "), ("anyOf", " or "), ("allOf", " and ")] {
        if let Some(parts) = schema[key].as_array() {
            return joined(parts.iter().map(shape), word);
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        return joined(values.iter().map(|value| html! { code { (word(value)) } }), ", ");
    }
    html! {
        (kind(schema))
        @if let Some(items) = schema.get("items") { " of " (shape(items)) }
        @if let Some(each) = schema.get("additionalProperties").filter(|each| each.is_object()) {
            ", each " (shape(each))
        }
        @if schema["properties"].is_object() { (properties(schema)) }
    }
}

fn properties(schema: &Value) -> Markup {
    let needed = list(&schema["required"]);
    html! {
        ul {
            @for (name, property) in members_of(&schema["properties"]) {
                li {
                    code { (name) }
                    @if needed.iter().any(|each| each == name) { ", " strong { "always" } }
                    ": " (shape(property))
                    (remark(property))
                }
            }
        }
    }
}

/// The type with its format and bounds.
fn kind(schema: &Value) -> String {
    let mut kind = match &schema["type"] {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
        _ => "anything".to_owned(),
    };
    for (key, before) in
        [("format", ""), ("minimum", "from "), ("maximum", "to "), ("maxItems", "at most "), ("default", "otherwise ")]
    {
        if let Some(value) = schema.get(key) {
            kind.push_str(&format!(", {before}{}", word(value)));
        }
    }
    kind
}

fn remark(of: &Value) -> Markup {
    html! { @if let Some(description) = of["description"].as_str() { ". " (inline(description)) } }
}

fn joined(parts: impl Iterator<Item = Markup>, word: &str) -> Markup {
    html! { @for (at, part) in parts.enumerate() { @if at > 0 { (word) } (part) } }
}

/// A description: paragraphs, and words of the interface between backticks.
fn prose(description: &Value) -> Markup {
    html! { @for paragraph in text(description).split("\n\n").filter(|text| !text.is_empty()) { p { (inline(paragraph)) } } }
}

fn inline(description: &str) -> Markup {
    html! {
        @for (at, part) in description.split('`').enumerate() {
            @if at % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn anchor(tag: &str) -> String {
    format!("tag-{}", tag.replace(' ', "-"))
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn members_of(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter).map(|(name, member)| (name.as_str(), member))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../openapi.yaml");

    #[test]
    fn every_operation_and_every_schema_is_on_the_page() {
        let document: Value = serde_saphyr::from_str(DOCUMENT).unwrap();
        let page = page(DOCUMENT).unwrap();
        let mut operations = 0;
        for (_, item) in members_of(&document["paths"]) {
            for id in METHODS.iter().filter_map(|method| item[method]["operationId"].as_str()) {
                assert!(page.contains(&format!("<article id=\"{id}\">")), "{id}");
                operations += 1;
            }
        }
        assert!(operations > 100, "{operations}");
        for (name, _) in members_of(&document["components"]["schemas"]) {
            assert!(page.contains(&format!("<article id=\"schema-{name}\">")), "{name}");
        }
    }

    #[test]
    fn every_link_leads_to_a_place_on_the_page_and_nothing_is_fetched() {
        let page = page(DOCUMENT).unwrap();
        for link in page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            match link.strip_prefix('#') {
                Some(id) => assert!(page.contains(&format!("id=\"{id}\"")), "{link}"),
                None => assert_eq!(link, "/openapi.yaml"),
            }
        }
        assert!(!page.contains("src=") && !page.contains("url("));
    }

    #[test]
    fn a_description_cannot_become_markup() {
        let document = "info: { title: A, version: '1', description: '`a<b>` & <script>' }\npaths: {}\n";
        let page = page(document).unwrap();
        assert!(page.contains("<code>a&lt;b&gt;</code> &amp; &lt;script&gt;"), "{page}");
    }
}
