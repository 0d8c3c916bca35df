//! Single calls to control and admin APIs, away from the measurement.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::Failure;
use super::records::Template;

/// Answers' JSON; an error for anything but success.
pub fn call(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Result<Value, Failure> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let text = exchange(address, request.as_bytes())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("an answer without a head")?;
    if !head.starts_with("HTTP/1.1 20") {
        return Err(format!("{method} {path}: {head}: {body}").into());
    }
    Ok(serde_json::from_str(body)?)
}

/// Sends one rendered request; an error unless it was taken.
pub fn send(address: SocketAddr, template: &mut Template) -> Result<(), Failure> {
    let request = String::from_utf8(template.next().to_vec())?.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let text = exchange(address, request.as_bytes())?;
    if text.starts_with("HTTP/1.1 200") && text.ends_with('1') { Ok(()) } else { Err(text.into()) }
}

fn exchange(address: SocketAddr, request: &[u8]) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(request)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
