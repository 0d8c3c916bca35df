//! Filling requests: as many items as the limits allow, in order, none left out.

use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;

/// How much one request may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub items: usize,
    /// The whole body, frame included.
    pub bytes: usize,
}

/// One request's body and the items that are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Indices into the items that were given; consecutive requests hold consecutive ranges.
    pub range: Range<usize>,
    pub body: Bytes,
}

/// Writes `items` as JSON arrays between `head` and `tail` (`{"events":[` and `]}`), starting a new body where the next
/// item would exceed `capacity`. An item that is too large by itself travels alone: only the vendor can refuse it, and
/// its refusal costs nobody else.
pub fn pack<T: Serialize>(head: &str, items: &[T], tail: &str, capacity: Capacity) -> Vec<Packed> {
    let mut packed = Vec::new();
    let mut body = Vec::new();
    let mut start = 0;
    let mut item = Vec::new();
    for (index, value) in items.iter().enumerate() {
        item.clear();
        write_json(&mut item, value);
        let full = index - start >= capacity.items || body.len() + 1 + item.len() + tail.len() > capacity.bytes;
        if index > start && full {
            packed.push(close(std::mem::take(&mut body), tail, start..index));
            start = index;
        }
        body.extend_from_slice(if index == start { head.as_bytes() } else { b"," });
        body.extend_from_slice(&item);
    }
    if start < items.len() {
        packed.push(close(body, tail, start..items.len()));
    }
    packed
}

fn close(mut body: Vec<u8>, tail: &str, range: Range<usize>) -> Packed {
    body.extend_from_slice(tail.as_bytes());
    Packed { range, body: body.into() }
}

/// Appends `value` as JSON.
pub(super) fn write_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Cannot fail: writing to a Vec is infallible, and the wire types have string keys only.
    serde_json::to_writer(out, value).expect("wire types are always representable as JSON");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    proptest! {
        #[test]
        fn packing_keeps_order_loses_nothing_and_stays_inside(
            items in prop::collection::vec(".{0,40}", 0..60),
            max_items in 1usize..20,
            max_bytes in 20usize..400,
        ) {
            let capacity = Capacity { items: max_items, bytes: max_bytes };
            let packed = pack("{\"x\":[", &items, "]}", capacity);
            let mut seen = Vec::new();
            let mut next = 0;
            for request in &packed {
                prop_assert_eq!(request.range.start, next);
                prop_assert!(!request.range.is_empty());
                next = request.range.end;
                prop_assert!(request.range.len() <= max_items);
                prop_assert!(request.body.len() <= max_bytes || request.range.len() == 1);
                let body: Value = serde_json::from_slice(&request.body).unwrap();
                let held: Vec<String> = serde_json::from_value(body["x"].clone()).unwrap();
                prop_assert_eq!(held.len(), request.range.len());
                seen.extend(held);
            }
            prop_assert_eq!(next, items.len());
            prop_assert_eq!(seen, items);
        }
    }

    #[test]
    fn requests_are_filled_to_the_brim() {
        let items = vec!["aaaa"; 10];
        // Head 1, tail 1, items 6 each and a comma between: three take 22 bytes.
        let packed = pack("[", &items, "]", Capacity { items: 100, bytes: 22 });
        assert_eq!(packed.iter().map(|p| p.range.len()).collect::<Vec<_>>(), [3, 3, 3, 1]);
        let packed = pack("[", &items, "]", Capacity { items: 4, bytes: 1000 });
        assert_eq!(packed.iter().map(|p| p.range.len()).collect::<Vec<_>>(), [4, 4, 2]);
    }
}
