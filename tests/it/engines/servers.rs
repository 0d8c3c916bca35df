//! What JetStream promises besides: one works at a time, whoever was before cannot write, and the servers may come and go.

use std::time::Duration;

use bytes::Bytes;
use mixrelay::store::jetstream::{OpenError, Role};
use mixrelay::store::{Appends as _, KeyRange, State as _, Table};

use super::{event, open_jetstream, put, read_all, try_open_jetstream, work};
use crate::harness::nats::Nats;
use crate::harness::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_works_and_the_next_takes_over_what_it_wrote() {
    let nats = Nats::start().await;
    let first = open_jetstream(&nats, &nats.directory().join("a"), 1).await;
    let open = work(&first).await;
    let second = open_jetstream(&nats, &nats.directory().join("b"), 1).await;
    open.state.write(put(Table::People, "ada", "1")).await.unwrap();
    // Both take in, and the one who works has all of it.
    first.publisher().append(vec![event("from a")]).await.unwrap();
    second.publisher().append(vec![event("from b")]).await.unwrap();
    eventually(PATIENCE, async || match read_all(open.journal.as_ref()).await.len() {
        2 => Ok(()),
        found => Err(format!("{found} entries of 2")),
    })
    .await;
    // The other follows, and may not write.
    eventually(PATIENCE, async || {
        let found = second.state().get(Table::People, vec![b"ada".to_vec()]).await.unwrap();
        if found[0].is_some() { Ok(()) } else { Err("nothing of ada yet".to_owned()) }
    })
    .await;
    assert!(second.state().write(put(Table::People, "ada", "2")).await.is_err());
    assert!(matches!(&*second.role().borrow(), Role::Waiting { worker: Some(_) }));

    drop(open);
    first.close().await;
    let open = work(&second).await;
    assert_eq!(open.journal.accepted().event, 2);
    open.state.write(put(Table::People, "ada", "3")).await.unwrap();
    let found = open.state.get(Table::People, vec![b"ada".to_vec()]).await.unwrap();
    assert_eq!(found, [Some(Bytes::from("3"))]);
}

/// The first is as good as stopped: it neither appends nor notices. What it writes afterwards is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_fenced_off_cannot_write() {
    let nats = Nats::start().await;
    let first = open_jetstream(&nats, &nats.directory().join("a"), 1).await;
    let before = work(&first).await;
    // The same relay in another process, as far as the log can see: it need not wait for silence.
    let twin = nats.directory().join("b");
    std::fs::create_dir_all(&twin).unwrap();
    std::fs::copy(nats.directory().join("a/worker"), twin.join("worker")).unwrap();
    let second = open_jetstream(&nats, &twin, 1).await;
    let after = work(&second).await;
    after.state.write(put(Table::People, "ada", "new")).await.unwrap();
    assert!(before.state.write(put(Table::People, "ada", "old")).await.is_err());
    let mut role = first.role();
    let stopped = role.wait_for(|role| !matches!(role, Role::Working { .. }));
    tokio::time::timeout(PATIENCE, stopped).await.unwrap().unwrap();
    assert_eq!(first.lease().remaining(), Duration::ZERO);
    let found = after.state.get(Table::People, vec![b"ada".to_vec()]).await.unwrap();
    assert_eq!(found, [Some(Bytes::from("new"))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_comes_back_loses_nothing() {
    let mut nats = Nats::start().await;
    let store = open_jetstream(&nats, &nats.directory().join("a"), 1).await;
    let open = work(&store).await;
    let mut stored = Vec::new();
    for n in 0..20 {
        if n % 5 == 4 {
            nats.servers[0].kill().await;
            nats.servers[0].start();
            nats.is_ready().await;
        }
        // An app whose request was refused sends it again.
        let body = format!("{n}");
        eventually(PATIENCE, async || {
            store.publisher().append(vec![event(body.clone())]).await.map_err(|error| error.to_string())
        })
        .await;
        stored.push(body);
        open.state.write(put(Table::People, &format!("{n:02}"), "x")).await.unwrap();
    }
    eventually(PATIENCE, async || {
        let entries = read_all(open.journal.as_ref()).await;
        let bodies: Vec<_> = entries.iter().flat_map(|e| &e.records).map(|r| r.body.clone()).collect();
        let missing: Vec<_> = stored.iter().filter(|body| !bodies.contains(&Bytes::from((*body).clone()))).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("missing: {missing:?}")) }
    })
    .await;
    assert_eq!(open.state.count(Table::People, KeyRange::all()).await.unwrap().0, 20);
    assert!(matches!(&*store.role().borrow(), Role::Working { .. }), "a short absence is lived through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_its_leader_goes_on_and_without_a_quorum_refuses() {
    let mut nats = Nats::cluster().await;
    let store = open_jetstream(&nats, &nats.directory().join("a"), 3).await;
    let open = work(&store).await;
    let append = async |body: &'static str| {
        eventually(PATIENCE, async || {
            store.publisher().append(vec![event(body)]).await.map_err(|error| error.to_string())
        })
        .await;
    };
    append("with three").await;
    nats.servers[0].kill().await;
    append("with two").await;
    nats.servers[1].kill().await;
    assert!(store.publisher().append(vec![event("alone")]).await.is_err(), "no quorum");
    assert!(store.publisher().ready().is_err());
    nats.servers[0].start();
    nats.servers[1].start();
    append("with three again").await;
    let (reader, state) = if matches!(&*store.role().borrow(), Role::Working { .. }) {
        (open.journal.clone(), open.state.clone())
    } else {
        let again = work(&store).await;
        (again.journal, again.state)
    };
    eventually(PATIENCE, async || {
        let entries = read_all(reader.as_ref()).await;
        let bodies: Vec<_> = entries.iter().flat_map(|e| &e.records).map(|r| r.body.clone()).collect();
        let expected = ["with three", "with two", "with three again"];
        let missing: Vec<_> = expected.iter().filter(|body| !bodies.contains(&Bytes::from(**body))).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("missing {missing:?} in {bodies:?}")) }
    })
    .await;
    eventually(PATIENCE, async || state.write(put(Table::People, "ada", "1")).await.map_err(|error| error.to_string()))
        .await;
}

/// A relay whose copy is gone, or from another log, begins with the newest snapshot; the log is cut behind one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_relay_begins_with_a_snapshot() {
    let nats = Nats::start().await;
    let first = open_jetstream(&nats, &nats.directory().join("a"), 1).await;
    let open = work(&first).await;
    for n in 0..50 {
        open.state.write(put(Table::People, &format!("{n:02}"), "kept")).await.unwrap();
    }
    open.state.write(put(Table::People, "secret", "who was erased")).await.unwrap();
    let mut batch = mixrelay::store::WriteBatch::new();
    batch.delete(Table::People, "secret");
    open.state.write(batch).await.unwrap();
    assert!(open.state.scrub().await.unwrap());
    open.state.write(put(Table::People, "later", "behind the snapshot")).await.unwrap();

    let second = open_jetstream(&nats, &nats.directory().join("b"), 1).await;
    eventually(PATIENCE, async || {
        let (rows, _) = second.state().count(Table::People, KeyRange::all()).await.unwrap();
        if rows == 51 { Ok(()) } else { Err(format!("{rows} rows of 51")) }
    })
    .await;
    drop(open);
    first.close().await;
    drop(work(&second).await);
    second.close().await;
    // Nothing of whoever was erased is in any file, of the servers or of the relays.
    for entry in walk(nats.directory()) {
        let bytes = std::fs::read(&entry).unwrap();
        let found = bytes.windows(14).any(|window| window == b"who was erased");
        assert!(!found, "{} holds what was erased", entry.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_without_its_log_is_refused() {
    let nats = Nats::start().await;
    let first = open_jetstream(&nats, &nats.directory().join("a"), 1).await;
    let open = work(&first).await;
    first.publisher().append(vec![event("a")]).await.unwrap();
    drop(open);
    first.close().await;
    let client = async_nats::connect(nats.addresses()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    context.delete_stream("relay-state-0").await.unwrap();
    let refused = try_open_jetstream(&nats, &nats.directory().join("b"), 1).await;
    assert!(matches!(refused, Err(OpenError::Half { .. })), "{:?}", refused.err());
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}
