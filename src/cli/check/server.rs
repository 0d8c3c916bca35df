//! The listener's certificate: whether it can be read, and whether the key is its own.

use super::live::Finding;
use crate::config::Server;
use crate::edge::tls::Certificate;

pub(super) fn check(server: &Server) -> Vec<Finding> {
    let look = |files| match Certificate::load(files) {
        Ok(_) => Finding::works("server.tls", "the certificate and its key can be used"),
        // The text begins with the key.
        Err(error) => Finding::fails("certificate", error.to_string()),
    };
    server.tls.iter().map(look).collect()
}
