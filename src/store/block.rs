//! The block codec: how an entry's records stand in a journal, as a row of a file or as a message of a stream.
//!
//! ```text
//! block   := version u8, codec u8, count u32, raw_len u32, checksum u64, payload
//! payload := record*                                 (as it is, or one zstd frame)
//!          | places_len u32, places, gzip            (a request as it was sent)
//! record  := head, body[len]
//! head    := kind u8, origin u8, destinations u8, project u8, len u32, received_at u64
//! places  := (head, start u32)*                      (one zstd frame; where each body stands in what `gzip` inflates to)
//! ```
//!
//! A request that came compressed and of which every byte is kept is stored as it came: compressing it again would cost
//! more than all the rest of taking it in.
//!
//! Integers are little-endian. The checksum is xxh3-64 over everything before it and the payload as stored, so damage is
//! recognised before anything is believed. Numbers given to kinds and origins are part of the format and never reused.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use xxhash_rust::xxh3::Xxh3;

use crate::clock::UnixMillis;
use crate::record::{Destinations, Kind, Origin, Project, Record};
use crate::store::Sent;

const VERSION: u8 = 1;
const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const CODEC_SENT: u8 = 2;
const CHECKSUM_AT: usize = 10;
const HEADER: usize = 18;
const RECORD_HEADER: usize = 16;
/// A record's head and where its body begins.
const PLACE: usize = RECORD_HEADER + 4;
/// Below this a zstd frame saves nothing worth its time (a single event shrinks by a sixth).
const MIN_COMPRESSED: usize = 1024;
/// Level 1: the best ratio of all levels up to 3 on batches of events, at half a gigabyte a second.
const LEVEL: i32 = 1;

/// Records are handed to the compressor in pieces of about this size.
const PIECE: usize = 64 << 10;

/// Small requests are packed together up to this many bytes before compression. Larger blocks gain nothing, and cost
/// whoever reads one record of them.
pub(super) const BLOCK_BYTES: usize = 256 << 10;

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
    push_head(payload, record);
    payload.extend_from_slice(&record.body);
}

fn push_head(payload: &mut Vec<u8>, record: &Record) {
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
        match self.compress(payload) {
            Some(block) => finish(block, CODEC_ZSTD, count, payload.len()),
            None => {
                let mut block = vec![0; HEADER];
                block.extend_from_slice(payload);
                finish(block, CODEC_RAW, count, payload.len())
            }
        }
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

/// Writes the header into the room that was left for it.
fn finish(mut block: Vec<u8>, codec: u8, count: u32, raw_len: usize) -> Vec<u8> {
    let raw_len = u32::try_from(raw_len).unwrap_or(u32::MAX);
    block[0] = VERSION;
    block[1] = codec;
    block[2..6].copy_from_slice(&count.to_le_bytes());
    block[6..CHECKSUM_AT].copy_from_slice(&raw_len.to_le_bytes());
    let sum = checksum(&block);
    block[CHECKSUM_AT..HEADER].copy_from_slice(&sum.to_le_bytes());
    block
}

/// The block of a large request, whose payload, of `len` bytes, is never whole in memory.
pub(super) fn seal_large(records: &[Record], len: usize) -> Vec<u8> {
    let (codec, block) = match compress_records(records, len) {
        Ok(block) if block.len() < HEADER + len => (CODEC_ZSTD, block),
        _ => {
            let mut block = Vec::with_capacity(HEADER + len);
            block.resize(HEADER, 0);
            records.iter().for_each(|record| push_record(&mut block, record));
            (CODEC_RAW, block)
        }
    };
    finish(block, codec, count_of(records), len)
}

fn compress_records(records: &[Record], len: usize) -> io::Result<Vec<u8>> {
    let mut block = Vec::with_capacity(HEADER + len / 4);
    block.resize(HEADER, 0);
    let mut encoder = zstd::stream::write::Encoder::new(block, LEVEL)?;
    encoder.set_pledged_src_size(Some(len as u64))?;
    let mut piece = Vec::with_capacity(PIECE);
    for record in records {
        push_record(&mut piece, record);
        if piece.len() >= PIECE {
            encoder.write_all(&piece)?;
            piece.clear();
        }
    }
    encoder.write_all(&piece)?;
    let mut block = encoder.finish()?;
    block.shrink_to_fit();
    Ok(block)
}

/// The block of a request that is stored as it was sent. `None` when a body is no slice of the text.
pub(super) fn seal_sent(records: &[Record], sent: &Sent) -> Option<Vec<u8>> {
    let mut places = Vec::with_capacity(records.len() * PLACE);
    for record in records {
        let start = place(&sent.text, &record.body)?;
        push_head(&mut places, record);
        places.extend_from_slice(&u32::try_from(start).ok()?.to_le_bytes());
    }
    let places = zstd::bulk::compress(&places, LEVEL).ok()?;
    let mut block = Vec::with_capacity(HEADER + 4 + places.len() + sent.gzip.len());
    block.resize(HEADER, 0);
    block.extend_from_slice(&u32::try_from(places.len()).ok()?.to_le_bytes());
    block.extend_from_slice(&places);
    block.extend_from_slice(&sent.gzip);
    Some(finish(block, CODEC_SENT, count_of(records), sent.text.len()))
}

/// Where `body` begins in `text`, whose slice it is.
fn place(text: &Bytes, body: &Bytes) -> Option<usize> {
    let start = (body.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    (start + body.len() <= text.len()).then_some(start)
}

fn count_of(records: &[Record]) -> u32 {
    // MAX_RAW bounds the number of records far below u32::MAX.
    u32::try_from(records.len()).unwrap_or(u32::MAX)
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
        CODEC_SENT if raw_len <= MAX_RAW => return decode_sent(&block[HEADER..], raw_len, count),
        CODEC_ZSTD | CODEC_SENT => return Err(BlockError::Compression),
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
        let head = payload.get(at..at + RECORD_HEADER).ok_or(BlockError::Layout)?;
        let record = record(head, payload, at + RECORD_HEADER)?;
        at += RECORD_HEADER + record.body.len();
        records.push(record);
    }
    if at == payload.len() { Ok(records) } else { Err(BlockError::Layout) }
}

/// The records of a request that was stored as it was sent.
fn decode_sent(payload: &[u8], raw_len: usize, count: u32) -> Result<Vec<Record>, BlockError> {
    let len = field_u32(payload, 0).ok_or(BlockError::Layout)? as usize;
    let (places, gzip) = payload[4..].split_at_checked(len).ok_or(BlockError::Layout)?;
    // No record is shorter than `{}`.
    let count = usize::try_from(count).ok().filter(|count| *count <= raw_len).ok_or(BlockError::Layout)?;
    let places = zstd::bulk::decompress(places, count * PLACE).map_err(|_| BlockError::Compression)?;
    // One byte more: a text that is longer than stated is damage too.
    let mut text = Vec::with_capacity(raw_len + 1);
    let status = Decompress::new_gzip(15).decompress_vec(gzip, &mut text, FlushDecompress::Finish);
    if !matches!(status, Ok(Status::StreamEnd)) || text.len() != raw_len {
        return Err(BlockError::Compression);
    }
    if places.len() != count * PLACE {
        return Err(BlockError::Layout);
    }
    let text = Bytes::from(text);
    let at = |place: &[u8]| field_u32(place, RECORD_HEADER).ok_or(BlockError::Layout);
    places.chunks_exact(PLACE).map(|place| record(place, &text, at(place)? as usize)).collect()
}

/// The record with this head and the body that begins at `start` of `bytes`.
fn record(head: &[u8], bytes: &Bytes, start: usize) -> Result<Record, BlockError> {
    let len = field_u32(head, 4).ok_or(BlockError::Layout)? as usize;
    let received_at = field_u64(head, 8).ok_or(BlockError::Layout)?;
    let (kind, origin, destinations, project) = (head[0], head[1], head[2], head[3]);
    let end = start.checked_add(len).filter(|end| *end <= bytes.len()).ok_or(BlockError::Layout)?;
    Ok(Record {
        kind: Kind::from_code(kind).ok_or(BlockError::Unknown { field: "kind", value: kind })?,
        origin: Origin::from_code(origin).ok_or(BlockError::Unknown { field: "origin", value: origin })?,
        destinations: Destinations::from_bits(destinations),
        project: project_from(project)?,
        received_at: UnixMillis(received_at),
        body: bytes.slice(start..end),
    })
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

    /// The records as slices of one text, and that text as it would have been sent.
    fn as_sent(records: &[Record]) -> (Vec<Record>, Sent) {
        let mut text = b"[".to_vec();
        let mut spans = Vec::new();
        for record in records {
            spans.push(text.len()..text.len() + record.body.len());
            text.extend_from_slice(&record.body);
            text.push(b',');
        }
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&text).unwrap();
        let sent = Sent { gzip: gzip.finish().unwrap().into(), text: text.into() };
        let slices = records.iter().zip(spans);
        let records = slices.map(|(record, span)| Record { body: sent.text.slice(span), ..record.clone() }).collect();
        (records, sent)
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
        fn a_large_request_is_sealed_piece_by_piece(records in records()) {
            let block = seal_large(&records, records.iter().map(record_len).sum());
            prop_assert_eq!(decode(block).unwrap(), records);
        }

        #[test]
        fn a_request_is_kept_as_it_was_sent(records in records(), noise in any::<prop::sample::Index>()) {
            let (records, sent) = as_sent(&records);
            let block = seal_sent(&records, &sent).unwrap();
            prop_assert_eq!(&decode(block.clone()).unwrap(), &records);
            // Damage that the checksum does not tell of.
            let mut payload = block[HEADER..].to_vec();
            let at = noise.index(payload.len());
            payload[at] ^= 0x55;
            let mut damaged = vec![0; HEADER];
            damaged.extend_from_slice(&payload);
            drop(decode(finish(damaged, CODEC_SENT, count_of(&records), sent.text.len())));
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
    fn a_body_from_elsewhere_is_not_looked_for_in_the_text() {
        let record = Record {
            kind: Kind::Event,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: UnixMillis(1),
            body: Bytes::from_static(b"{}"),
        };
        let (_, sent) = as_sent(std::slice::from_ref(&record));
        assert_eq!(seal_sent(&[record], &sent), None);
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
