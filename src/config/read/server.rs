//! Where the relay listens, where it keeps things, and who may do what: `server`, `store`, `auth`.

use std::path::PathBuf;

use crate::config::error::Bad;
use crate::config::model::{Auth, CorsOrigins, NamedToken, Role, Server, Store, StoreEngine, Tls};
use crate::config::reader::{Item, Section};
use crate::config::values;

pub(super) fn server(mut block: Section<'_>) -> Server {
    let default = Server::default();
    let server = Server {
        listen: block.scalar("listen", values::listen).unwrap_or(default.listen),
        admin_listen: block.scalar("admin_listen", values::listen),
        trusted_proxies: block.list("trusted_proxies", |item| item.scalar(values::network)),
        cors_origins: cors_origins(&mut block).unwrap_or(default.cors_origins),
        path_prefix: block.scalar("path_prefix", values::path_prefix),
        tls: tls(block.section("tls")),
    };
    block.finish();
    server
}

/// `None`: the key is absent. An empty list lets no browser in from elsewhere.
fn cors_origins(block: &mut Section<'_>) -> Option<CorsOrigins> {
    let item = block.take("cors_origins")?;
    let items = item.list("a list, such as [\"*\"] or [\"https://www.example.com\"]")?;
    let mut origins = Vec::new();
    let mut any = false;
    for item in &items {
        match item.scalar(values::cors_origin) {
            Some(None) if items.len() > 1 => {
                item.bad(Bad::new("already stands for every origin", "it alone, or leave it out"));
            }
            Some(None) => any = true,
            Some(Some(origin)) => origins.push(origin),
            None => {}
        }
    }
    Some(if any { CorsOrigins::Any } else { CorsOrigins::Only(origins) })
}

fn tls(mut block: Section<'_>) -> Option<Tls> {
    let cert = block.scalar("cert", values::path);
    let key = block.scalar("key", values::path);
    if block.exists() && cert.is_none() {
        block.missing("cert", "the PEM file of the certificate chain");
    }
    if block.exists() && key.is_none() {
        block.missing("key", "the PEM file of the private key");
    }
    block.finish();
    Some(Tls { cert: cert?, key: key? })
}

pub(super) fn store(root: &mut Section<'_>) -> Store {
    let default = || StoreEngine::Sqlite(PathBuf::from("data/mixrelay.db"));
    Store {
        engine: root.scalar("store", values::store_engine).unwrap_or_else(default),
        min_free: root.scalar("store_min_free", values::bytes),
        allow_volatile: root.scalar("allow_volatile_store", values::boolean).unwrap_or(false),
    }
}

pub(super) fn auth(mut block: Section<'_>) -> Auth {
    let auth = Auth {
        admin_token: block.hidden("admin_token", values::secret),
        api_keys: block.list("api_keys", |item| {
            item.warn_of_placeholder();
            item.hidden(values::secret)
        }),
        signing_secrets: block.list("signing_secrets", |item| item.hidden(values::signing_secret)),
        tokens: block.list("tokens", named_token),
    };
    block.finish();
    auth
}

fn named_token(item: Item<'_>) -> Option<NamedToken> {
    let mut block = item.section()?;
    let name = block.scalar("name", values::text);
    let roles = Role::ALL.map(|role| (role.label(), role));
    let role = block.scalar("role", values::choice(&roles));
    let token = block.hidden("token", values::secret);
    for (key, absent, write) in [
        ("name", name.is_none(), "a name that the audit log can show"),
        ("role", role.is_none(), "viewer, operator or admin"),
        ("token", token.is_none(), "the token, such as \"${GROWTH_TOKEN}\""),
    ] {
        if absent {
            block.missing(key, write);
        }
    }
    block.finish();
    Some(NamedToken { name: name?, role: role?, token: token? })
}
