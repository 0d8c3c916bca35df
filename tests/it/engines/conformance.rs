//! One suite for both engines.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mixrelay::record::{EntryId, Epoch, Position};
use mixrelay::store::{AppendError, KeyRange, Picker, Sent, Table, Tail, WriteBatch};

use super::{Engine, NOW, event, noise, profile, put, read_all};
use crate::harness::eventually;

const NOTHING_KEPT: Tail = Tail { max_age: Duration::ZERO, max_bytes: 0 };

macro_rules! both_engines {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Engine::sqlite()).await;
            })*
        }

        mod jetstream {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Engine::jetstream().await).await;
            })*
        }
    };
}

both_engines!(
    what_is_appended_is_read_back_where_it_was_said_to_be,
    a_request_as_it_was_sent_is_read_like_any_other,
    requests_that_come_together_all_stand_once,
    a_large_request_stands_whole,
    numbers_go_on_after_draining_and_a_restart,
    a_cursor_beyond_the_end_is_refused,
    trimming_keeps_what_is_not_read_and_the_tail,
    a_backlog_is_counted_from_anywhere,
    erased_records_leave_their_places,
    state_is_read_as_it_was_written,
    a_batch_is_applied_in_its_order,
    a_large_batch_is_whole,
    state_outlives_a_restart,
);

/// The newest entry is counted a moment after its append was answered.
async fn tip_is(journal: &dyn mixrelay::store::Journal, tip: EntryId) {
    let mut tips = journal.tip();
    let reached = tips.wait_for(|now| *now >= tip);
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("the tip moves").unwrap();
}

async fn what_is_appended_is_read_back_where_it_was_said_to_be(mut engine: Engine) {
    let open = engine.open().await;
    let small = vec![event("{\"event\":\"a\"}"), profile("{\"$set\":{}}")];
    let large = vec![event(noise(200_000, 7)), event(vec![b'x'; 100_000])];
    let at_small = open.journal.append(small.clone()).await.unwrap();
    let at_large = open.journal.append(large.clone()).await.unwrap();
    let epoch = open.journal.epoch();
    assert_eq!(epoch, Epoch(1));
    assert_eq!(at_small, Position { epoch, entry: EntryId(1), index: 0 });
    assert_eq!(at_large, Position { epoch, entry: EntryId(2), index: 0 });
    tip_is(open.journal.as_ref(), EntryId(3)).await;

    let entries = read_all(open.journal.as_ref()).await;
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].records, small);
    assert_eq!(entries[1].records, large);
    assert_eq!(entries[1].position(1), Position { index: 1, ..at_large });
    assert_eq!(open.journal.accepted().event, 3);
    assert_eq!(open.journal.accepted().profile, 1);
    assert_eq!(open.journal.count_from(EntryId(2)).await.unwrap(), 2);
    assert!(open.journal.read(EntryId(3), 1).await.unwrap().is_empty());
    let one = open.journal.read(EntryId(1), 1).await.unwrap();
    assert_eq!(one.len(), 1, "at least one, at most the bytes asked for");
    assert!(open.journal.ready().is_ok());
    let size = open.journal.size().await.unwrap();
    assert_eq!((size.entries, size.records), (2, 4));
    assert!(size.bytes > 200_000 && size.bytes < 301_000, "{} bytes", size.bytes);
    engine.close().await;
}

async fn a_request_as_it_was_sent_is_read_like_any_other(mut engine: Engine) {
    let open = engine.open().await;
    let bodies: Vec<String> = (0..2_000).map(|n| format!(r#"{{"event":"e","properties":{{"n":{n:040}}}}}"#)).collect();
    let text = Bytes::from(format!("[{}]", bodies.join(",")));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, &text).unwrap();
    let sent = Sent { gzip: gzip.finish().unwrap().into(), text: text.clone() };
    let size = bodies[0].len();
    let records: Vec<_> =
        (0..2_000).map(|n| event(text.slice(1 + n * (size + 1)..1 + n * (size + 1) + size))).collect();
    open.journal.append_sent(records.clone(), sent).await.unwrap();
    tip_is(open.journal.as_ref(), EntryId(2)).await;
    assert_eq!(read_all(open.journal.as_ref()).await[0].records, records);
    engine.close().await;
}

async fn requests_that_come_together_all_stand_once(mut engine: Engine) {
    let open = engine.open().await;
    let requests = (0..500).map(|n| {
        let journal = open.journal.clone();
        async move { (n, journal.append(vec![event(format!("{n}-0")), event(format!("{n}-1"))]).await.unwrap()) }
    });
    let answers = futures_util::future::join_all(requests).await;
    let last = answers.iter().map(|(_, at)| at.entry).max().unwrap();
    tip_is(open.journal.as_ref(), last.next()).await;
    let entries = read_all(open.journal.as_ref()).await;
    assert_eq!(entries.iter().map(|entry| entry.records.len()).sum::<usize>(), 1_000);
    for (n, at) in answers {
        let entry = entries.iter().find(|entry| entry.id == at.entry).unwrap();
        let index = at.index as usize;
        let bodies: Vec<_> = entry.records[index..index + 2].iter().map(|record| record.body.clone()).collect();
        assert_eq!(bodies, [format!("{n}-0"), format!("{n}-1")]);
    }
    assert!(entries.len() < 500, "requests that wait share an entry: {}", entries.len());
    assert_eq!(open.journal.count_from(EntryId::FIRST).await.unwrap(), 1_000);
    engine.close().await;
}

async fn a_large_request_stands_whole(mut engine: Engine) {
    let open = engine.open().await;
    let records: Vec<_> = (0..12).map(|n| event(noise(400_000, n))).collect();
    open.journal.append(records.clone()).await.unwrap();
    eventually(Duration::from_secs(30), async || {
        let found: Vec<_> = read_all(open.journal.as_ref()).await.into_iter().flat_map(|e| e.records).collect();
        if found == records { Ok(()) } else { Err(format!("{} records of 12", found.len())) }
    })
    .await;
    let hopeless = open.journal.append(vec![event(noise(300 << 20, 1))]).await;
    assert!(matches!(hopeless, Err(AppendError::TooLarge { .. })), "{hopeless:?}");
    engine.close().await;
}

async fn numbers_go_on_after_draining_and_a_restart(mut engine: Engine) {
    let open = engine.open().await;
    for n in 0..3 {
        open.journal.append(vec![event(n.to_string())]).await.unwrap();
    }
    tip_is(open.journal.as_ref(), EntryId(4)).await;
    let later = NOW + Duration::from_secs(1);
    while open.journal.trim(EntryId(4), NOTHING_KEPT, later).await.unwrap().more {}
    assert!(read_all(open.journal.as_ref()).await.is_empty());
    let open = engine.open_again(open).await;
    assert_eq!(*open.journal.tip().borrow(), EntryId(4), "a drained journal remembers");
    assert_eq!(open.journal.accepted().event, 3);
    let at = open.journal.append(vec![event("new")]).await.unwrap();
    assert_eq!(at.entry, EntryId(4));
    tip_is(open.journal.as_ref(), EntryId(5)).await;
    let entries = open.journal.read(EntryId(4), 1 << 20).await.unwrap();
    assert_eq!(entries[0].records[0].body, "new");
    assert_eq!(open.journal.accepted().event, 4);
    engine.close().await;
}

async fn a_cursor_beyond_the_end_is_refused(mut engine: Engine) {
    let open = engine.open().await;
    open.journal.append(vec![event("a")]).await.unwrap();
    tip_is(open.journal.as_ref(), EntryId(2)).await;
    let epoch = open.journal.epoch();
    let at = |entry| Position { epoch, entry: EntryId(entry), index: 0 };
    assert!(open.journal.check_cursor(at(2)).is_ok(), "everything is read");
    assert!(open.journal.check_cursor(at(3)).is_err());
    engine.close().await;
}

async fn trimming_keeps_what_is_not_read_and_the_tail(mut engine: Engine) {
    let open = engine.open().await;
    // Each is an entry of its own, and large enough for engines that trim by sections.
    for n in 0..6 {
        open.journal.append(vec![event(noise(900_000, n)), event(noise(900_000, n + 100))]).await.unwrap();
    }
    let entries = read_all(open.journal.as_ref()).await;
    let end = entries.last().unwrap().id.next();
    tip_is(open.journal.as_ref(), end).await;
    let later = NOW + Duration::from_secs(60);
    let generous = Tail { max_age: Duration::from_secs(3600), max_bytes: u64::MAX };
    assert_eq!(open.journal.trim(end, generous, later).await.unwrap().entries, 0, "all of it is tail");
    assert_eq!(open.journal.trim(EntryId::FIRST, NOTHING_KEPT, later).await.unwrap().entries, 0, "nothing is read");
    let middle = entries[entries.len() / 2].id;
    while open.journal.trim(middle, NOTHING_KEPT, later).await.unwrap().more {}
    let left = read_all(open.journal.as_ref()).await;
    assert!(left.len() < entries.len(), "something goes");
    assert_eq!(left.last().unwrap().id.next(), end);
    assert!(left[0].id <= middle, "what is not read stays");
    assert_eq!(open.journal.accepted().event, 12);
    assert_eq!(open.journal.size().await.unwrap().records, left.iter().map(|e| e.records.len() as u64).sum::<u64>());
    engine.close().await;
}

async fn a_backlog_is_counted_from_anywhere(mut engine: Engine) {
    let mut open = engine.open().await;
    let mut positions = Vec::new();
    for n in 0..40_u64 {
        let records = (0..=n % 3).map(|m| event(format!("{n}-{m}"))).collect();
        positions.push((open.journal.append(records).await.unwrap().entry, 1 + n % 3));
    }
    tip_is(open.journal.as_ref(), positions.last().unwrap().0.next()).await;
    for restarted in [false, true] {
        if restarted {
            open = engine.open_again(open).await;
        }
        for (from, _) in &positions {
            let expected: u64 = positions.iter().filter(|(entry, _)| entry >= from).map(|(_, records)| records).sum();
            assert_eq!(open.journal.count_from(*from).await.unwrap(), expected, "from {from:?}");
        }
        let end = positions.last().unwrap().0.next();
        assert_eq!(open.journal.count_from(end).await.unwrap(), 0);
    }
    engine.close().await;
}

async fn erased_records_leave_their_places(mut engine: Engine) {
    let mut open = engine.open().await;
    for n in 0..4 {
        open.journal.append(vec![event(format!("ada {n}")), event(format!("bob {n}"))]).await.unwrap();
    }
    tip_is(open.journal.as_ref(), EntryId(5)).await;
    let belongs: Picker = Arc::new(|record| record.body.starts_with(b"ada"));
    let mut from = EntryId::FIRST;
    let mut emptied = 0;
    while from < EntryId(5) {
        let step = open.journal.erase(from, EntryId(5), belongs.clone()).await.unwrap();
        assert!(step.next > from);
        (from, emptied) = (step.next, emptied + step.emptied);
    }
    assert_eq!(emptied, 4);
    assert!(open.journal.scrub().await.unwrap());
    open.journal.append(vec![event("later")]).await.unwrap();
    tip_is(open.journal.as_ref(), EntryId(6)).await;
    for restarted in [false, true] {
        if restarted {
            open = engine.open_again(open).await;
        }
        let entries = read_all(open.journal.as_ref()).await;
        let bodies: Vec<Vec<&[u8]>> =
            entries.iter().map(|entry| entry.records.iter().map(|record| &record.body[..]).collect()).collect();
        assert_eq!(
            bodies,
            [
                vec![b"" as &[u8], b"bob 0"],
                vec![b"", b"bob 1"],
                vec![b"", b"bob 2"],
                vec![b"", b"bob 3"],
                vec![b"later"]
            ]
        );
        assert_eq!(entries.iter().map(|entry| entry.id.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(open.journal.accepted().event, 9, "places are counted");
        assert_eq!(open.journal.count_from(EntryId(2)).await.unwrap(), 7);
        assert_eq!(*open.journal.tip().borrow(), EntryId(6));
    }
    // Once more, from what stands in their places.
    open = engine.open_again(open).await;
    let belongs: Picker = Arc::new(|record| record.body.starts_with(b"bob 1"));
    let step = open.journal.erase(EntryId(2), EntryId(3), belongs).await.unwrap();
    assert_eq!((step.next, step.emptied), (EntryId(3), 1));
    assert!(open.journal.read(EntryId(2), 1).await.unwrap()[0].records.iter().all(|record| record.body.is_empty()));
    engine.close().await;
}

async fn state_is_read_as_it_was_written(mut engine: Engine) {
    let open = engine.open().await;
    let mut batch = WriteBatch::new();
    for (key, value) in [("a", "1"), ("ab", "22"), ("b", "333")] {
        batch.put(Table::People, key, value);
    }
    batch.put(Table::Debts, "a", "other table");
    open.state.write(batch).await.unwrap();
    let keys = vec![b"b".to_vec(), b"x".to_vec(), b"a".to_vec()];
    let found = open.state.get(Table::People, keys).await.unwrap();
    assert_eq!(found, [Some(Bytes::from("333")), None, Some(Bytes::from("1"))]);
    let pairs = open.state.scan(Table::People, KeyRange::prefix("a"), 10).await.unwrap();
    assert_eq!(pairs.iter().map(|(key, _)| key.as_slice()).collect::<Vec<_>>(), [b"a" as &[u8], b"ab"]);
    let pairs = open.state.scan_back(Table::People, KeyRange::all(), 2).await.unwrap();
    assert_eq!(pairs.iter().map(|(key, _)| key.as_slice()).collect::<Vec<_>>(), [b"b" as &[u8], b"ab"]);
    assert_eq!(open.state.count(Table::People, KeyRange::all()).await.unwrap(), (3, 6));
    assert_eq!(open.state.count(Table::Bases, KeyRange::all()).await.unwrap(), (0, 0));
    assert!(open.state.scrub().await.unwrap());
    engine.close().await;
}

async fn a_batch_is_applied_in_its_order(mut engine: Engine) {
    let open = engine.open().await;
    open.state.write(put(Table::People, "b", "before")).await.unwrap();
    let mut batch = WriteBatch::new();
    batch.put(Table::People, "a", "gone with the range");
    batch.delete_range(Table::People, "a", "c");
    batch.put(Table::People, "a", "first");
    batch.put(Table::People, "a", "last");
    batch.put(Table::People, "c", "gone");
    batch.delete(Table::People, "c");
    open.state.write(batch).await.unwrap();
    let pairs = open.state.scan(Table::People, KeyRange::all(), 10).await.unwrap();
    assert_eq!(pairs, [(b"a".to_vec(), Bytes::from("last"))]);
    engine.close().await;
}

async fn a_large_batch_is_whole(mut engine: Engine) {
    let open = engine.open().await;
    let mut batch = WriteBatch::new();
    for n in 0..40_u64 {
        batch.put(Table::People, format!("{n:02}"), noise(100_000, n));
    }
    open.state.write(batch).await.unwrap();
    let open = engine.open_again(open).await;
    assert_eq!(open.state.count(Table::People, KeyRange::all()).await.unwrap(), (40, 4_000_000));
    let found = open.state.get(Table::People, vec![b"39".to_vec()]).await.unwrap();
    assert_eq!(found[0].as_deref(), Some(&noise(100_000, 39)[..]));
    engine.close().await;
}

async fn state_outlives_a_restart(mut engine: Engine) {
    let open = engine.open().await;
    let writing = (0..200).map(|n| {
        let state = open.state.clone();
        async move { state.write(put(Table::People, &format!("{n:03}"), "x")).await.unwrap() }
    });
    futures_util::future::join_all(writing).await;
    let open = engine.open_again(open).await;
    assert_eq!(open.state.count(Table::People, KeyRange::all()).await.unwrap(), (200, 200));
    engine.close().await;
}
