//! What the vendors push by themselves: posted once, with the receiver's answer for the test to look at. Repeating is the
//! test's to do, whose clock is not the vendors'.

use serde_json::{Value, json};

/// How much of an answer is looked at.
const MAX_ANSWER: usize = 1 << 20;

/// One POST to a receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub url: String,
    /// `Authorization`, if any.
    pub authorization: Option<String>,
    pub body: Value,
}

/// Posts one after the other: `{"url","status","answer"}` of each, or `{"url","error"}`.
pub async fn send(deliveries: Vec<Delivery>) -> Vec<Value> {
    let client = match reqwest::Client::builder().no_proxy().build() {
        Ok(client) => client,
        Err(error) => return vec![json!({ "error": error.to_string() })],
    };
    let mut answers = Vec::with_capacity(deliveries.len());
    for Delivery { url, authorization, body } in deliveries {
        let mut request = client.post(&url).header("content-type", "application/json").body(body.to_string());
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        answers.push(match answered(request).await {
            Ok((status, answer)) => json!({ "url": url, "status": status, "answer": answer }),
            Err(error) => json!({ "url": url, "error": error.to_string() }),
        });
    }
    answers
}

async fn answered(request: reqwest::RequestBuilder) -> Result<(u16, Value), reqwest::Error> {
    let mut response = request.send().await?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            break;
        }
    }
    Ok((response.status().as_u16(), serde_json::from_slice(&body).unwrap_or_default()))
}
