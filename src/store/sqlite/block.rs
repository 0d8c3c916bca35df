//! The block codec: how an entry's records stand in one row of the journal.
//!
//! ```text
//! block   := version u8, codec u8, count u32, raw_len u32, checksum u64, payload
//! payload := record*                                 (as it is, or one zstd frame)
//! record  := kind u8, origin u8, destinations u8, project u8, len u32, received_at u64, body[len]
//! ```
//!
//! Integers are little-endian. The checksum is xxh3-64 over everything before it and the payload as stored, so damage is
//! recognised before anything is believed. Numbers given to kinds and origins are part of the format and never reused.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use crate::clock::UnixMillis;
use crate::record::{Destinations, Kind, Origin, Project, Record};

const VERSION: u8 = 1;
const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const CHECKSUM_AT: usize = 10;
const HEADER: usize = 18;
const RECORD_HEADER: usize = 16;
/// Below this a zstd frame saves nothing worth its time (a single event shrinks by a sixth).
const MIN_COMPRESSED: usize = 1024;
/// Level 1: the best ratio of all levels up to 3 on batches of events, at half a gigabyte a second.
const LEVEL: i32 = 1;

/// The largest payload that an entry may have, before compression.
pub(super) const MAX_RAW: usize = 256 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BlockError {
    #[error("the block is shorter than its header")]
    Short,
    #[error("block version {0} is not known")]
    Version(u8),
    #[error("the block's checksum does not match its bytes")]
    Checksum,
    #[error("block codec {0} is not known")]
    Codec(u8),
    #[error("the block's payload does not decompress to its stated length")]
    Compression,
    #[error("a record of the block has a {field} of {value}, which is not known")]
    Unknown { field: &'static str, value: u8 },
    #[error("the block's records do not fill its payload")]
    Layout,
}

/// Appends one record to a payload under construction.
pub(super) fn push_record(payload: &mut Vec<u8>, record: &Record) {
    // Callers refuse payloads above MAX_RAW, which is far below u32::MAX.
    let len = u32::try_from(record.body.len()).unwrap_or(u32::MAX);
    payload.extend_from_slice(&[
        record.kind.code(),
        record.origin.code(),
        record.destinations.bits(),
        project_code(record.project),
    ]);
    payload.extend_from_slice(&len.to_le_bytes());
    payload.extend_from_slice(&record.received_at.0.to_le_bytes());
    payload.extend_from_slice(&record.body);
}

/// Bytes that [`push_record`] adds for `record`.
pub(super) fn record_len(record: &Record) -> usize {
    RECORD_HEADER + record.body.len()
}

/// Turns payloads into blocks; keeps the compressor's tables from one block to the next.
#[derive(Default)]
pub(super) struct Sealer {
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl Sealer {
    /// The finished block of a payload of `count` records.
    pub(super) fn seal(&mut self, payload: &[u8], count: u32) -> Vec<u8> {
        let (codec, mut block) = match self.compress(payload) {
            Some(block) => (CODEC_ZSTD, block),
            None => {
                let mut block = vec![0; HEADER];
                block.extend_from_slice(payload);
                (CODEC_RAW, block)
            }
        };
        let raw_len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        block[0] = VERSION;
        block[1] = codec;
        block[2..6].copy_from_slice(&count.to_le_bytes());
        block[6..CHECKSUM_AT].copy_from_slice(&raw_len.to_le_bytes());
        let sum = checksum(&block);
        block[CHECKSUM_AT..HEADER].copy_from_slice(&sum.to_le_bytes());
        block
    }

    /// The compressed payload behind room for the header; `None` when that would not be smaller.
    fn compress(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        if payload.len() < MIN_COMPRESSED {
            return None;
        }
        if self.compressor.is_none() {
            self.compressor = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        let mut block = vec![0; HEADER + payload.len()];
        // A frame that would not fit into the payload's own length is refused here, and the payload is stored as it is.
        let len = self.compressor.as_mut()?.compress_to_buffer(payload, &mut block[HEADER..]).ok()?;
        block.truncate(HEADER + len);
        Some(block)
    }
}

/// Length of the payload of `block` before compression, as its header states it; 0 for what is no block.
pub(super) fn stated_raw_len(block: &[u8]) -> usize {
    field_u32(block, 6).unwrap_or(0) as usize
}

/// The records of a block. Their bodies are slices of one buffer.
pub(super) fn decode(block: Vec<u8>) -> Result<Vec<Record>, BlockError> {
    let count = field_u32(&block, 2).ok_or(BlockError::Short)?;
    let raw_len = stated_raw_len(&block);
    if block.len() < HEADER {
        return Err(BlockError::Short);
    }
    if block[0] != VERSION {
        return Err(BlockError::Version(block[0]));
    }
    if field_u64(&block, CHECKSUM_AT) != Some(checksum(&block)) {
        return Err(BlockError::Checksum);
    }
    let payload = match block[1] {
        CODEC_RAW => Bytes::from(block).slice(HEADER..),
        CODEC_ZSTD if raw_len <= MAX_RAW => {
            Bytes::from(zstd::bulk::decompress(&block[HEADER..], raw_len).map_err(|_| BlockError::Compression)?)
        }
        CODEC_ZSTD => return Err(BlockError::Compression),
        other => return Err(BlockError::Codec(other)),
    };
    if payload.len() != raw_len {
        return Err(BlockError::Compression);
    }
    decode_payload(&payload, count)
}

/// `records` as a payload, with the bodies of those that `belongs` picks left out: their places stay. `None` when it
/// picks none.
pub(super) fn without(records: &[Record], belongs: &dyn Fn(&Record) -> bool) -> Option<(Vec<u8>, u64)> {
    let mut payload = Vec::new();
    let mut emptied = 0;
    for record in records {
        if !record.is_erased() && belongs(record) {
            emptied += 1;
            push_record(&mut payload, &Record { body: Bytes::new(), ..record.clone() });
        } else {
            push_record(&mut payload, record);
        }
    }
    (emptied > 0).then_some((payload, emptied))
}

/// The records of a payload, as slices of it.
pub(super) fn decode_payload(payload: &Bytes, count: u32) -> Result<Vec<Record>, BlockError> {
    let fits = payload.len() / RECORD_HEADER;
    let count = usize::try_from(count).ok().filter(|count| *count <= fits).ok_or(BlockError::Layout)?;
    let mut records = Vec::with_capacity(count);
    let mut at = 0;
    for _ in 0..count {
        let header = payload.get(at..at + RECORD_HEADER).ok_or(BlockError::Layout)?;
        let len = field_u32(header, 4).ok_or(BlockError::Layout)? as usize;
        let received_at = field_u64(header, 8).ok_or(BlockError::Layout)?;
        let (kind, origin, destinations, project) = (header[0], header[1], header[2], header[3]);
        at += RECORD_HEADER;
        let end = at.checked_add(len).filter(|end| *end <= payload.len()).ok_or(BlockError::Layout)?;
        records.push(Record {
            kind: Kind::from_code(kind).ok_or(BlockError::Unknown { field: "kind", value: kind })?,
            origin: Origin::from_code(origin).ok_or(BlockError::Unknown { field: "origin", value: origin })?,
            destinations: Destinations::from_bits(destinations),
            project: project_from(project)?,
            received_at: UnixMillis(received_at),
            body: payload.slice(at..end),
        });
        at = end;
    }
    if at == payload.len() { Ok(records) } else { Err(BlockError::Layout) }
}

fn checksum(block: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&block[..CHECKSUM_AT]);
    hasher.update(&block[HEADER..]);
    hasher.digest()
}

fn field_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn field_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn project_code(project: Project) -> u8 {
    match project {
        Project::Ours => 0,
        Project::Foreign => 1,
    }
}

fn project_from(value: u8) -> Result<Project, BlockError> {
    match value {
        0 => Ok(Project::Ours),
        1 => Ok(Project::Foreign),
        _ => Err(BlockError::Unknown { field: "project", value }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let record = (0..4u8, 0..5u8, any::<u8>(), 0..2u8, any::<u64>(), "[a-e]{0,400}").prop_map(
            |(kind, origin, destinations, project, at, body)| Record {
                kind: Kind::from_code(kind).unwrap(),
                origin: Origin::from_code(origin).unwrap(),
                destinations: Destinations::from_bits(destinations),
                project: project_from(project).unwrap(),
                received_at: UnixMillis(at),
                body: Bytes::from(body),
            },
        );
        proptest::collection::vec(record, 0..40)
    }

    fn seal(records: &[Record]) -> Vec<u8> {
        let mut payload = Vec::new();
        for record in records {
            push_record(&mut payload, record);
        }
        assert_eq!(payload.len(), records.iter().map(record_len).sum::<usize>());
        Sealer::default().seal(&payload, u32::try_from(records.len()).unwrap())
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_decoded(records in records()) {
            let block = seal(&records);
            prop_assert_eq!(stated_raw_len(&block), records.iter().map(record_len).sum::<usize>());
            prop_assert_eq!(decode(block).unwrap(), records);
        }

        #[test]
        fn every_changed_bit_is_noticed(records in records(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut block = seal(&records);
            let at = at.index(block.len());
            block[at] ^= 1 << bit;
            prop_assert!(decode(block).is_err());
        }

        #[test]
        fn every_cut_is_noticed(records in records(), keep in any::<prop::sample::Index>()) {
            let mut block = seal(&records);
            block.truncate(keep.index(block.len()));
            prop_assert!(decode(block).is_err());
        }

        #[test]
        fn noise_is_an_error_and_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(noise).is_err());
        }

        /// With the checksum made right, so that the layout itself has to hold.
        #[test]
        fn a_wrong_layout_under_a_right_checksum_is_no_panic(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            count in 0..20u32,
        ) {
            let block = Sealer::default().seal(&payload, count);
            if let Ok(records) = decode(block) {
                prop_assert_eq!(records.len(), count as usize);
            }
        }
    }

    #[test]
    fn bodies_share_the_blocks_buffer() {
        let body = Bytes::from(vec![b'x'; 2000]);
        let record = |at| Record {
            kind: Kind::Event,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: UnixMillis(at),
            body: body.clone(),
        };
        let block = seal(&[record(1), record(2)]);
        assert!(block.len() < 1000, "repetitive bodies compress");
        let decoded = decode(block).unwrap();
        let distance = decoded[1].body.as_ptr() as usize - decoded[0].body.as_ptr() as usize;
        assert_eq!(distance, 2000 + RECORD_HEADER);
    }
}
