use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use futures_util::{StreamExt as _, stream};

use super::*;

const CAP: usize = 100_000;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A body that arrives in pieces of `size` bytes.
fn pieces(data: &[u8], size: usize) -> Body {
    let chunks: Vec<Result<Bytes, std::io::Error>> =
        data.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    Body::from_stream(stream::iter(chunks))
}

async fn intake(encoding: &str, body: Body) -> (Result<Bytes, IntakeError>, Budget) {
    let (result, budget) = whole_intake(encoding, body).await;
    (result.map(|intake| intake.body), budget)
}

async fn whole_intake(encoding: &str, body: Body) -> (Result<Intake, IntakeError>, Budget) {
    let mut headers = HeaderMap::new();
    if !encoding.is_empty() {
        headers.insert(CONTENT_ENCODING, encoding.parse().unwrap());
    }
    let budget = Budget::new(1 << 20);
    let limits = IntakeLimits { body_bytes: CAP, ..IntakeLimits::default() };
    let result = read(&headers, body, &limits, &budget, &mut |_| {}).await;
    (result, budget)
}

#[tokio::test]
async fn a_bare_gzip_body_is_kept_as_it_came() {
    let text = vec![b'x'; 1000];
    let plain = gzip(&text);
    let halves = [gzip(&text), gzip(&text)].concat();
    let padded = [gzip(&text), vec![0; 64]].concat();
    let named = {
        let mut encoder = flate2::GzBuilder::new().filename("people.json").write(Vec::new(), Compression::default());
        encoder.write_all(&text).unwrap();
        encoder.finish().unwrap()
    };
    for size in [1, 7, usize::MAX] {
        for (sent, bare) in [(&text, false), (&plain, true), (&halves, false), (&padded, false), (&named, false)] {
            let kept = whole_intake("gzip", pieces(sent, size)).await.0.unwrap().gzip;
            assert_eq!(kept, bare.then(|| Bytes::from(sent.clone())), "pieces of {size}");
        }
    }
}

#[tokio::test]
async fn bodies_come_whole_whatever_their_pieces_and_encoding() {
    let text: Vec<u8> = (0..CAP).map(|n| b"0123456789abcdef"[n * 7 % 16]).collect();
    let mut deflater = ZlibEncoder::new(Vec::new(), Compression::default());
    deflater.write_all(&text).unwrap();
    let deflated = deflater.finish().unwrap();
    let halves = [gzip(&text[..50_000]), gzip(&text[50_000..])].concat();
    let padded = [gzip(&text), vec![0; 64]].concat();
    for size in [1, 3, 1000, usize::MAX] {
        for (encoding, sent) in [
            ("", &text),
            ("identity", &text),
            ("gzip", &text), // a proxy has inflated it
            ("gzip", &gzip(&text)),
            ("", &gzip(&text)), // a proxy has lost the header
            ("gzip", &halves),
            ("gzip", &padded),
            ("deflate", &deflated),
        ] {
            let (body, budget) = intake(encoding, pieces(sent, size)).await;
            assert!(body.unwrap() == text, "{encoding} in pieces of {size}");
            assert_eq!(budget.free(), 1 << 20);
        }
    }
    assert_eq!(intake("", Body::empty()).await.0.unwrap(), Bytes::new());
}

/// The length at the end of a gzip body only decides how much room there is at first. It has to be right all the same, as
/// the check of what came: whoever states another gets no answer but that the body is no gzip.
#[tokio::test]
async fn a_large_gzip_body_is_inflated_rightly_whatever_room_its_end_promises() {
    // Hardly to be compressed, so that it is large enough for the blocking pool.
    let mut dice = fastrand::Rng::with_seed(7);
    let text: Vec<u8> = std::iter::repeat_with(|| dice.u8(..64)).take(CAP).collect();
    let true_body = gzip(&text);
    assert!(true_body.len() >= BIG);
    // Of several members the last states its own length alone; padding is read as a length as well.
    let few_at_the_end = [gzip(&text[..CAP - 1]), gzip(&text[CAP - 1..])].concat();
    let nothing_at_the_end = [true_body.clone(), gzip(b"")].concat();
    let padding_of = |length: u32| [true_body.clone(), vec![0; 4], length.to_le_bytes().to_vec()].concat();
    for sent in [
        true_body.clone(),
        few_at_the_end,
        nothing_at_the_end,
        padding_of(0),
        padding_of(1),
        padding_of(CAP as u32 / 2),
        padding_of(u32::MAX),
    ] {
        for size in [1_000, usize::MAX] {
            let (body, budget) = intake("gzip", pieces(&sent, size)).await;
            assert!(body.unwrap() == text, "{:?} at the end, in pieces of {size}", sent.last_chunk::<4>());
            assert_eq!(budget.free(), 1 << 20);
        }
    }
    for untrue in [0, 1, CAP as u32 - 1, CAP as u32 + 1, u32::MAX] {
        let mut sent = true_body.clone();
        let end = sent.len() - 4;
        sent[end..].copy_from_slice(&untrue.to_le_bytes());
        let (body, budget) = intake("gzip", pieces(&sent, 1_000)).await;
        assert_eq!(body, Err(IntakeError::NotInflatable), "{untrue}");
        assert_eq!(budget.free(), 1 << 20);
    }
}

#[tokio::test]
async fn one_byte_too_much_is_too_large() {
    let text = vec![b'x'; CAP + 1];
    for (encoding, sent) in [("", text.clone()), ("gzip", gzip(&text))] {
        for size in [1000, usize::MAX] {
            let (body, budget) = intake(encoding, pieces(&sent, size)).await;
            assert_eq!(body, Err(IntakeError::TooLarge), "{encoding} {size}");
            assert_eq!(budget.free(), 1 << 20);
        }
    }
}

#[tokio::test]
async fn a_bomb_stops_at_the_cap() {
    // A gigabyte in a megabyte; the whole pool is a megabyte, so it could not be held either.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let zeros = vec![0; 1 << 20];
    for _ in 0..64 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() > CAP);
    assert_eq!(intake("gzip", Body::from(bomb[..CAP].to_vec())).await.0, Err(IntakeError::TooLarge));
}

#[tokio::test]
async fn what_cannot_be_inflated_says_so() {
    let good = gzip(b"some text that is long enough to be cut");
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 0xff;
    let many = gzip(b"x").repeat(MAX_MEMBERS + 1);
    for (encoding, sent, error) in [
        ("gzip", good[..good.len() - 9].to_vec(), IntakeError::Broken),
        ("gzip", damaged, IntakeError::NotInflatable),
        ("gzip", many, IntakeError::NotInflatable),
        ("deflate", b"not deflated at all".to_vec(), IntakeError::NotInflatable),
        ("br", b"x".to_vec(), IntakeError::UnknownEncoding),
    ] {
        assert_eq!(intake(encoding, pieces(&sent, 5)).await.0, Err(error), "{encoding}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_or_never_ends_is_too_slow() {
    let stalled = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"[{"))]).chain_pending();
    assert_eq!(intake("", Body::from_stream(stalled)).await.0, Err(IntakeError::TooSlow));

    let dripping = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), ()))
    });
    let started = Instant::now();
    assert_eq!(intake("", Body::from_stream(dripping)).await.0, Err(IntakeError::TooSlow));
    assert_eq!(started.elapsed(), IntakeLimits::default().total);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_broken() {
    let broken = stream::iter([Ok(Bytes::from_static(b"[{\"event\"")), Err(std::io::Error::other("connection reset"))]);
    assert_eq!(intake("", Body::from_stream(broken)).await.0, Err(IntakeError::Broken));
}

#[tokio::test]
async fn observers_see_the_bytes_as_sent() {
    let sent = gzip(b"{\"event\":1}");
    for size in [1, 4, usize::MAX] {
        let mut seen = Vec::new();
        let limits = IntakeLimits::default();
        let budget = Budget::new(1 << 20);
        let mut observe = |piece: &[u8]| seen.extend_from_slice(piece);
        read(&HeaderMap::new(), pieces(&sent, size), &limits, &budget, &mut observe).await.unwrap();
        assert_eq!(seen, sent);
    }
}

trait ChainPending: futures_util::Stream + Sized {
    /// Ends in waiting instead of an end.
    fn chain_pending(self) -> impl futures_util::Stream<Item = Self::Item> {
        futures_util::StreamExt::chain(self, stream::pending())
    }
}

impl<S: futures_util::Stream> ChainPending for S {}

/// A body that nobody reads to its end is a connection reset to whoever writes it: a phone would send it again for ever.
#[tokio::test]
async fn a_body_that_cannot_be_read_is_read_to_its_end_all_the_same() {
    for (encoding, sent) in [("br", vec![b'x'; 5_000]), ("deflate", vec![b'x'; 5_000]), ("gzip", vec![b'x'; CAP + 1])] {
        let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(sent.len()));
        let counted = left.clone();
        let chunks: Vec<Bytes> = sent.chunks(1_000).map(Bytes::copy_from_slice).collect();
        let body = Body::from_stream(stream::iter(chunks).map(move |chunk| {
            counted.fetch_sub(chunk.len(), std::sync::atomic::Ordering::Relaxed);
            Ok::<_, std::io::Error>(chunk)
        }));
        assert!(intake(encoding, body).await.0.is_err());
        assert_eq!(left.load(std::sync::atomic::Ordering::Relaxed), 0, "{encoding}");
    }
}
