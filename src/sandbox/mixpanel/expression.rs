//! The part of the vendor's expression language (contract §10) that filters profiles: `defined`, comparisons of a property
//! with a text, a number or a `datetime`, `not`, `and`, `or`, parentheses. Of anything else nothing is evaluated.
//!
//! Unlike types compare as undefined, which is false in `and` and `or` and true under `not`. Whether `$last_seen` is a
//! time or a text to the vendor is unconfirmed, and a switch.

use serde_json::{Map, Value};

use super::super::switches::LastSeenIs;

#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    Defined(String),
    Compare(String, Operator, Literal),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equal,
    NotEqual,
    Less,
    AtMost,
    More,
    AtLeast,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    Text(String),
    Number(f64),
    Time(String),
}

/// The longest first, so that none is taken for another's beginning.
const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("<", Operator::Less),
    (">", Operator::More),
];

impl Expression {
    /// `None` for what is not understood here.
    pub fn parse(text: &str) -> Option<Self> {
        let mut reader = Reader(text);
        let expression = reader.any()?;
        reader.0.trim().is_empty().then_some(expression)
    }

    pub fn holds(&self, profile: &Map<String, Value>, last_seen: LastSeenIs) -> bool {
        match self {
            Expression::Defined(name) => profile.get(name).is_some_and(|value| !value.is_null()),
            Expression::Compare(name, operator, literal) => {
                let time = name == "$last_seen" && last_seen == LastSeenIs::Time;
                profile.get(name).is_some_and(|value| compares(value, *operator, literal, time))
            }
            Expression::Not(inner) => !inner.holds(profile, last_seen),
            Expression::And(all) => all.iter().all(|inner| inner.holds(profile, last_seen)),
            Expression::Or(any) => any.iter().any(|inner| inner.holds(profile, last_seen)),
        }
    }
}

fn compares(value: &Value, operator: Operator, literal: &Literal, time: bool) -> bool {
    let order = match (value, literal) {
        (Value::String(value), Literal::Time(literal)) if time => value.partial_cmp(literal),
        (Value::String(value), Literal::Text(literal)) if !time => value.partial_cmp(literal),
        (Value::Number(value), Literal::Number(literal)) => value.as_f64().and_then(|value| value.partial_cmp(literal)),
        _ => None,
    };
    order.is_some_and(|order| match operator {
        Operator::Equal => order.is_eq(),
        Operator::NotEqual => order.is_ne(),
        Operator::Less => order.is_lt(),
        Operator::AtMost => order.is_le(),
        Operator::More => order.is_gt(),
        Operator::AtLeast => order.is_ge(),
    })
}

struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn take(&mut self, token: &str) -> bool {
        self.0 = self.0.trim_start();
        match self.0.strip_prefix(token) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn any(&mut self) -> Option<Expression> {
        let mut parts = vec![self.all()?];
        while self.take("or ") {
            parts.push(self.all()?);
        }
        Some(if parts.len() == 1 { parts.remove(0) } else { Expression::Or(parts) })
    }

    fn all(&mut self) -> Option<Expression> {
        let mut parts = vec![self.one()?];
        while self.take("and ") {
            parts.push(self.one()?);
        }
        Some(if parts.len() == 1 { parts.remove(0) } else { Expression::And(parts) })
    }

    fn one(&mut self) -> Option<Expression> {
        if self.take("not ") {
            return Some(Expression::Not(Box::new(self.one()?)));
        }
        if self.take("(") {
            let inner = self.any()?;
            return self.take(")").then_some(inner);
        }
        if self.take("defined(") {
            let name = self.property()?;
            return self.take(")").then_some(Expression::Defined(name));
        }
        let name = self.property()?;
        let operator = OPERATORS.into_iter().find(|(text, _)| self.take(text))?.1;
        Some(Expression::Compare(name, operator, self.literal()?))
    }

    fn property(&mut self) -> Option<String> {
        (self.take("properties[") || self.take("user[")).then_some(())?;
        let name = self.text()?;
        self.take("]").then_some(name)
    }

    fn literal(&mut self) -> Option<Literal> {
        if self.take("datetime(") {
            let time = self.text()?;
            return self.take(")").then_some(Literal::Time(time));
        }
        if let Some(text) = self.text() {
            return Some(Literal::Text(text));
        }
        let end = self.0.find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c))).unwrap_or(self.0.len());
        let number = self.0[..end].parse().ok()?;
        self.0 = &self.0[end..];
        Some(Literal::Number(number))
    }

    /// A JSON text.
    fn text(&mut self) -> Option<String> {
        self.0 = self.0.trim_start();
        let mut values = serde_json::Deserializer::from_str(self.0).into_iter::<String>();
        let text = values.next()?.ok()?;
        self.0 = &self.0[values.byte_offset()..];
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(text: &str, last_seen: LastSeenIs) -> bool {
        let profile = json!({"$email": "a@x.io", "age": 7, "$last_seen": "2026-11-24T10:00:00", "plan": null});
        Expression::parse(text).unwrap().holds(profile.as_object().unwrap(), last_seen)
    }

    #[test]
    fn what_is_understood_is_evaluated() {
        for (text, expected) in [
            (r#"defined(properties["$email"])"#, true),
            (r#"defined(properties["plan"]) or defined(user["age"])"#, true),
            (r#"properties["age"] >= 7 and properties["age"] != 8"#, true),
            (r#"properties["age"] > 7 or (not defined(properties["nobody"]))"#, true),
            (r#"properties["age"] == "7""#, false),
            (r#"properties["nobody"] != "x""#, false),
            (r#"not properties["nobody"] == "x""#, true),
        ] {
            assert_eq!(holds(text, LastSeenIs::Time), expected, "{text}");
        }
        for none in [r#"properties["a"] + 1 == 2"#, "true", "", r#"properties["a"] == 1 trailing"#] {
            assert_eq!(Expression::parse(none), None, "{none}");
        }
    }

    #[test]
    fn last_seen_is_a_time_or_a_text() {
        let time = r#"properties["$last_seen"] >= datetime("2026-11-24T09:00:00")"#;
        let text = r#"properties["$last_seen"] >= "2026-11-24T09:00:00""#;
        assert!(holds(time, LastSeenIs::Time) && !holds(time, LastSeenIs::Text));
        assert!(holds(text, LastSeenIs::Text) && !holds(text, LastSeenIs::Time));
        for last_seen in [LastSeenIs::Time, LastSeenIs::Text] {
            assert!(holds(&format!("({time} or {text}) and defined(properties[\"$email\"])"), last_seen));
        }
    }
}
