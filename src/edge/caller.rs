//! Who is calling: the peer's address, or, behind trusted proxies, the address that they saw.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::FORWARDED;
use ipnet::IpNet;

/// The caller's address. Headers count only when `peer` is a trusted proxy; of the addresses they list, the right-most
/// that is not a trusted proxy itself is the caller: everything left of it is hearsay.
///
/// `X-Forwarded-For` is asked first, then `Forwarded`, then `X-Real-IP` (the vendor's precedence is unknown,
/// contract §4).
pub fn address(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    if trusted.is_empty() || !is_trusted(peer) {
        return peer;
    }
    let lists = |name: &str| -> Vec<&str> {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')).collect()
    };
    let forwarded_for: Vec<&str> = lists("x-forwarded-for");
    let hops = if forwarded_for.is_empty() {
        lists(FORWARDED.as_str()).into_iter().filter_map(forwarded_for_parameter).collect()
    } else {
        forwarded_for
    };
    let mut caller = None;
    for hop in hops.iter().rev() {
        // An unreadable hop ends what can be believed.
        let Some(address) = parse(hop) else { break };
        caller = Some(address);
        if !is_trusted(address) {
            break;
        }
    }
    caller.or_else(|| parse(headers.get("x-real-ip")?.to_str().ok()?)).unwrap_or(peer)
}

/// The `for` parameter of one element of a `Forwarded` header (RFC 7239).
fn forwarded_for_parameter(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"'))
    })
}

/// An address with or without brackets and port.
fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let map = headers.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect();
        address(&map, peer.parse().unwrap(), &trusted).to_string()
    }

    #[test]
    fn headers_count_only_from_a_trusted_peer() {
        let spoof = [("x-forwarded-for", "1.1.1.1"), ("x-real-ip", "2.2.2.2")];
        assert_eq!(caller("203.0.113.9", &spoof), "203.0.113.9");
        assert_eq!(caller("10.0.0.1", &spoof), "1.1.1.1");
        assert_eq!(caller("::ffff:10.0.0.1", &spoof), "1.1.1.1");
    }

    #[test]
    fn the_right_most_untrusted_hop_is_the_caller() {
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, 198.51.100.7, 10.1.2.3")]), "198.51.100.7");
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "10.1.2.3, 10.9.9.9")]), "10.1.2.3");
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, rubbish, 10.1.2.3")]), "10.1.2.3");
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "198.51.100.7:4711")]), "198.51.100.7");
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "[2001:db8::1]:443")]), "2001:db8::1");
    }

    #[test]
    fn other_headers_stand_in() {
        assert_eq!(caller("10.0.0.1", &[("x-real-ip", "198.51.100.7")]), "198.51.100.7");
        let forwarded = [("forwarded", r#"for=6.6.6.6;proto=https, for="[2001:db8::2]:99""#)];
        assert_eq!(caller("10.0.0.1", &forwarded), "2001:db8::2");
        assert_eq!(caller("10.0.0.1", &[]), "10.0.0.1");
    }
}
