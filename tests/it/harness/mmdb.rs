//! Writes a city database in MaxMind's published format, version 2.0: a binary tree over the bits of the address, a data
//! section, and metadata behind a marker.

use std::net::IpAddr;

pub struct Net<'a> {
    /// `203.0.113.0/24`.
    pub net: &'a str,
    pub city: Option<&'a str>,
    pub region: Option<&'a str>,
    pub country: Option<&'a str>,
}

#[derive(Clone, Copy)]
enum Branch {
    Empty,
    Node(usize),
    Data(usize),
}

pub fn database(nets: &[Net<'_>]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut nodes = vec![[Branch::Empty; 2]];
    for net in nets {
        let (bits, length) = bits(net.net);
        let at = data.len();
        data.extend(record(net));
        let mut node = 0;
        for depth in 0..length {
            let side = usize::from(bits >> (127 - depth) & 1 == 1);
            if depth + 1 == length {
                nodes[node][side] = Branch::Data(at);
            } else {
                node = match nodes[node][side] {
                    Branch::Node(next) => next,
                    _ => {
                        nodes.push([Branch::Empty; 2]);
                        let next = nodes.len() - 1;
                        nodes[node][side] = Branch::Node(next);
                        next
                    }
                };
            }
        }
    }
    let count = nodes.len();
    let mut out = Vec::new();
    for branch in nodes.iter().flatten() {
        let number = match branch {
            Branch::Empty => count,
            Branch::Node(next) => *next,
            // The data section begins behind 16 zero bytes.
            Branch::Data(at) => count + 16 + at,
        };
        out.extend_from_slice(&u32::try_from(number).unwrap().to_be_bytes()[1..]);
    }
    out.extend_from_slice(&[0; 16]);
    out.extend(data);
    out.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    out.extend(metadata(count));
    out
}

/// The address as the tree has it (IPv4 below `::/96`), and the length of the prefix.
fn bits(net: &str) -> (u128, u32) {
    let (address, length) = net.split_once('/').unwrap();
    let length: u32 = length.parse().unwrap();
    match address.parse().unwrap() {
        IpAddr::V4(address) => (u128::from(u32::from(address)), length + 96),
        IpAddr::V6(address) => (u128::from(address), length),
    }
}

fn record(net: &Net<'_>) -> Vec<u8> {
    let named = |name: &str| map(&[("names", map(&[("en", text(name))]))]);
    let mut members = Vec::new();
    members.extend(net.city.map(|city| ("city", named(city))));
    members.extend(net.country.map(|code| ("country", map(&[("iso_code", text(code))]))));
    members.extend(net.region.map(|region| ("subdivisions", [array(1), named(region)].concat())));
    map(&members)
}

fn metadata(nodes: usize) -> Vec<u8> {
    map(&[
        ("binary_format_major_version", uint(5, 2)),
        ("binary_format_minor_version", uint(5, 0)),
        ("build_epoch", [vec![4, 2], 1_700_000_000_u32.to_be_bytes().to_vec()].concat()),
        ("database_type", text("Test-City")),
        ("description", map(&[])),
        ("ip_version", uint(5, 6)),
        ("languages", array(0)),
        ("node_count", uint(6, u32::try_from(nodes).unwrap())),
        ("record_size", uint(5, 24)),
    ])
}

/// Control byte: three bits of type, five of length. All that is written here is shorter than 29.
fn control(kind: u8, length: usize) -> u8 {
    assert!(length < 29, "longer values have another form");
    kind << 5 | u8::try_from(length).unwrap()
}

fn text(text: &str) -> Vec<u8> {
    [&[control(2, text.len())], text.as_bytes()].concat()
}

fn map(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![control(7, members.len())];
    for (key, value) in members {
        out.extend(text(key));
        out.extend_from_slice(value);
    }
    out
}

/// The head of an array: an extended type, 7 + 4.
fn array(length: usize) -> Vec<u8> {
    vec![control(0, length), 4]
}

/// Type 5 has 16 bits, type 6 has 32; leading zeros are left out.
fn uint(kind: u8, value: u32) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    [&[control(kind, bytes.len() - first)], &bytes[first..]].concat()
}
