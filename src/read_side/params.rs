//! The parameters of a question, pure: what goes to the vendor, and what makes two questions the same.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// Credentials of old clients (contract §2): the relay sends its own, and one of these beside them would confuse.
const CREDENTIALS: [&str; 4] = ["api_key", "api_secret", "sig", "expire"];

/// A question's parameters as they came, from the query and, where the body is a form, from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    query: Vec<(String, String)>,
    body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    Form(Vec<(String, String)>),
    /// JSON, or whatever else a new endpoint takes: passed on as it is.
    Raw(Bytes),
}

impl Params {
    /// `content_type` as sent; a body without one that does not look like JSON is taken for a form, as clients mean it.
    pub fn read(query: &str, content_type: Option<&str>, body: Bytes) -> Self {
        let pairs = |encoded: &[u8]| form_urlencoded::parse(encoded).into_owned().collect::<Vec<_>>();
        let json = matches!(body.trim_ascii_start().first(), Some(b'{' | b'['));
        let form = match content_type {
            Some(kind) => kind.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded"),
            None => true,
        };
        let body = if form && !json { Body::Form(pairs(&body)) } else { Body::Raw(body) };
        Self { query: pairs(query.as_bytes()), body }
    }

    /// The first value of a parameter, wherever it stands.
    pub fn get(&self, name: &str) -> Option<&str> {
        let form = match &self.body {
            Body::Form(pairs) => pairs.as_slice(),
            Body::Raw(_) => &[],
        };
        self.query.iter().chain(form).find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The query to send: what the caller sent, less credentials, with the relay's project.
    pub fn query(&self, project_id: Option<&str>) -> String {
        self.query_with(project_id, &[])
    }

    /// As [`Params::query`], with `replaced` in the place of what the caller said.
    pub fn query_with(&self, project_id: Option<&str>, replaced: &[(&str, &str)]) -> String {
        let mut out = form_urlencoded::Serializer::new(String::new());
        let kept = |key: &str| is_kept(key) && !replaced.iter().any(|(name, _)| *name == key);
        out.extend_pairs(self.query.iter().filter(|(key, _)| kept(key)));
        out.extend_pairs(replaced);
        if let Some(project_id) = project_id {
            out.append_pair("project_id", project_id);
        }
        out.finish()
    }

    /// The body to send, and whether it is a form that was written anew.
    pub fn body(&self) -> (Bytes, bool) {
        match &self.body {
            Body::Raw(bytes) => (bytes.clone(), false),
            Body::Form(pairs) => {
                let mut out = form_urlencoded::Serializer::new(String::new());
                out.extend_pairs(pairs.iter().filter(|(key, _)| is_kept(key)));
                (out.finish().into(), true)
            }
        }
    }

    /// Adds to `hash` what makes the question: parameters in any order and place are the same question.
    pub fn hash(&self, hash: &mut Sha256) {
        let form = match &self.body {
            Body::Form(pairs) => pairs.as_slice(),
            Body::Raw(_) => &[],
        };
        let mut all: Vec<&(String, String)> = self.query.iter().chain(form).filter(|(key, _)| is_kept(key)).collect();
        all.sort();
        let mut add = |text: &[u8]| {
            // Lengths go first, or `a=b&c` and `a=b&c` as one value would be the same.
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        for (key, value) in all {
            add(key.as_bytes());
            add(value.as_bytes());
        }
        if let Body::Raw(bytes) = &self.body {
            add(b"\0body");
            add(bytes);
        }
    }
}

fn is_kept(key: &str) -> bool {
    key != "project_id" && !CREDENTIALS.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Option<&str> = Some("application/x-www-form-urlencoded; charset=utf-8");

    fn key(query: &str, content_type: Option<&str>, body: &'static str) -> [u8; 32] {
        let mut hash = Sha256::new();
        Params::read(query, content_type, Bytes::from_static(body.as_bytes())).hash(&mut hash);
        hash.finalize().into()
    }

    #[test]
    fn the_project_is_ours_and_old_credentials_stay_here() {
        let params = Params::read("event=a+b&project_id=9&api_key=k&sig=s", FORM, "project_id=9&where=x%3D1".into());
        assert_eq!(params.query(Some("7")), "event=a+b&project_id=7");
        assert_eq!(params.body(), (Bytes::from_static(b"where=x%3D1"), true));
        assert_eq!(params.get("project_id"), Some("9"));
        assert_eq!(params.query_with(None, &[("event", "c")]), "event=c");
    }

    #[test]
    fn a_json_body_passes_as_it_is() {
        let body = r#"{"script":"x"}"#;
        for content_type in [Some("application/json"), None, FORM] {
            assert_eq!(Params::read("", content_type, body.into()).body(), (Bytes::from(body), false));
        }
    }

    #[test]
    fn order_and_place_do_not_make_another_question() {
        let one = key("a=1&b=2&project_id=5", None, "");
        assert_eq!(one, key("b=2&a=1", None, ""));
        assert_eq!(one, key("b=2", FORM, "a=1"));
        assert_ne!(one, key("a=1&b=3", None, ""));
        assert_ne!(one, key("a=1&b=2", Some("application/json"), "{}"));
        assert_ne!(key("a=b%26c=d", None, ""), key("a=b&c=d", None, ""));
    }
}
