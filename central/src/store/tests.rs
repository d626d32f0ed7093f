//! The store: what is written is found again, and files that are not ours are refused with a reason.

use std::{fs, path::Path};

use kulprit_cluster::{Initiator, RecordKey, Watched};
use kulprit_daemon::Chain;
use kulprit_model::{Attributes, FindingCode, Moment, Record, Stamp, State, Status, StreamId, Subject};
use kulprit_proto::v1;
use prost::Message as _;
use rusqlite::Connection;

use super::{
    sqlite::{FILE_NAME, SqliteStore},
    *,
};
use crate::{
    incident::{Incidents, Key, Looks, Observation, Timers, Whom, advance},
    state::{Arrived, CurrentKey, CurrentState, Forgotten, Limits},
};

const DAY: i64 = 86_400_000_000;
const NOW: i64 = 20_000 * DAY + 5_000_000;

fn stream() -> StreamId {
    StreamId { cluster: "c".to_owned(), node: "n1".to_owned() }
}

fn record(seq: u64, status: Status) -> Record {
    let at = Moment { wall_usec: NOW + i64::try_from(seq).unwrap(), boottime_usec: 1 };
    let body = kulprit_model::Body::State(State {
        code: FindingCode::KubeletInactive,
        subject: Subject::unit("kubelet.service"),
        status,
        since: at,
        looked: at,
        unknown_because: None,
        attributes: Attributes::new().with("active_state", "failed"),
        evidence: Vec::new(),
    });
    Record { stamp: Stamp { boot_id: "b".to_owned(), epoch: 1, seq, at }, body }
}

/// Record `seq` as ingest would write it, received on the day of `received`.
fn write(seq: u64, status: Status, received: i64) -> Write {
    let arrived = Arrived::new(record(seq, status));
    let epoch = Epoch { boot_id: "b".to_owned(), epoch: 1 };
    let row = HistoryRow {
        epoch: epoch.clone(),
        seq,
        at_wall_usec: arrived.record.stamp.at.wall_usec,
        kind: "state",
        code: "KubeletInactive",
        subject: "unit/kubelet.service".to_owned(),
        is_absent: status == Status::Absent,
        body: Arc::clone(&arrived.bytes),
    };
    let key = CurrentKey::of(&arrived.record).unwrap();
    Write::Records(RecordsWrite {
        history: vec![row],
        changes: vec![Change::Put(key, arrived.bytes)],
        watermarks: vec![(epoch, seq)],
        ..RecordsWrite::new(stream(), received)
    })
}

fn all() -> HistoryQuery {
    HistoryQuery {
        from_wall_usec: i64::MIN,
        to_wall_usec: i64::MAX,
        include_absent: true,
        limit: 1_000,
        ..HistoryQuery::default()
    }
}

fn seqs(store: &SqliteStore, query: &HistoryQuery) -> Vec<u64> {
    store.history().unwrap().read(query).unwrap().into_iter().map(|entry| entry.record.seq).collect()
}

#[test]
fn a_restart_finds_nodes_statuses_watermarks_and_incidents() {
    let folder = tempfile::tempdir().unwrap();
    let observation = Observation {
        key: Key { cause: "KubeletDown".to_owned(), place: "node/n1".to_owned() },
        node: "n1".to_owned(),
        may_be: Vec::new(),
        whom: Whom { node: "n1".to_owned(), uid: String::new() },
        namespace: String::new(),
        name: String::new(),
        symptom: "Unspecified".to_owned(),
        since_wall_usec: None,
        probability: 0.75,
        chain: vec!["KubeletDown".to_owned()],
        based_on: vec!["KubeletInactive unit/kubelet.service".to_owned()],
    };
    let changes = advance(&Incidents::default(), &[observation], &Looks::default(), NOW, &Timers::default());
    let mut incidents = Incidents::default();
    incidents.apply(&changes);
    let hello =
        v1::Hello { node: "n1".to_owned(), boot_id: "b".to_owned(), epoch: 1, ..v1::Hello::default() }.encode_to_vec();
    let (mut store, loaded) = SqliteStore::open(folder.path()).unwrap();
    assert!(loaded.nodes.is_empty() && loaded.incidents.is_empty());
    store
        .commit(&[
            Write::Node(NodeWrite { stream: stream(), hello, applied_offset_usec: 5_000_000, is_silent: false }),
            write(1, Status::Absent, NOW),
            write(2, Status::Present, NOW),
            Write::Incidents(changes.iter().map(|change| Arc::clone(&change.incident)).collect()),
        ])
        .unwrap();
    drop(store);

    let (_store, loaded) = SqliteStore::open(folder.path()).unwrap();
    assert_eq!(loaded.n_unreadable, 0);
    let mut node = loaded.nodes.into_iter().next().unwrap();
    let view = node.view();
    assert!(view.is_reporting, "a restart of central makes nobody silent");
    assert_eq!(view.states[0].status, Status::Present);
    assert_eq!(view.states[0].attributes.get("active_state"), Some("failed"));
    assert_eq!(view.states[0].since.wall_usec, NOW + 2 + 5_000_000, "on central's clock, as before");
    let epoch = Epoch { boot_id: "b".to_owned(), epoch: 1 };
    assert_eq!(node.progress.receive(&epoch, 2), crate::state::Receipt::Duplicate);
    assert_eq!(loaded.incidents.into_iter().collect::<Incidents>(), incidents);
}

#[test]
fn migrations_are_found_again_as_they_were_and_those_let_go_of_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let told = MigrationRecord {
        namespace: "prod".to_owned(),
        vm: "db-0".to_owned(),
        uid: "u1".to_owned(),
        name: "mig-1".to_owned(),
        vmi_uid: Some("v".to_owned()),
        source: Some("n1".to_owned()),
        target: Some("n2".to_owned()),
        created_usec: Some(1),
        started_usec: Some(2),
        ended_usec: Some(3),
        deleted_usec: Some(4),
        gone_usec: Some(5),
        has_succeeded: Some(false),
        is_abort_requested: true,
        reason: Some("why".to_owned()),
        initiator: Some(Initiator::HotPlug),
    };
    let bare = MigrationRecord { uid: "u2".to_owned(), ..MigrationRecord::default() };
    let key = |uid: &str| ("prod".to_owned(), "db-0".to_owned(), uid.to_owned());
    let old = MigrationRecord { uid: "u0".to_owned(), ..told.clone() };
    let watched = |since_usec, until_usec| Some(Watched { since_usec, until_usec });
    let write = |put: &[&MigrationRecord], drop: &[RecordKey], watched| {
        let put = put.iter().map(|record| (*record).clone()).collect();
        Write::Migrations(MigrationsWrite { changes: MigrationChanges { put, drop: drop.to_vec() }, watched })
    };
    let (mut store, loaded) = SqliteStore::open(folder.path()).unwrap();
    assert_eq!((loaded.migrations.len(), loaded.migrations_watched), (0, None));
    let earlier = MigrationRecord { has_succeeded: None, ..told.clone() };
    store.commit(&[write(&[&old, &earlier, &bare], &[], watched(7, 8))]).unwrap();
    store.commit(&[write(&[&told], &[key("u0"), key("never")], None)]).unwrap();
    drop(store);
    let (_store, loaded) = SqliteStore::open(folder.path()).unwrap();
    assert_eq!((loaded.migrations, loaded.migrations_watched), (vec![bare, told], watched(7, 8)));
}

#[test]
fn a_store_of_before_migrations_were_kept_is_brought_up() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let raw = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    raw.execute_batch("DROP TABLE migration; DROP TABLE migrations_kept; PRAGMA user_version = 2").unwrap();
    drop(raw);
    let (_store, loaded) = SqliteStore::open(folder.path()).unwrap();
    assert_eq!((loaded.migrations.len(), loaded.nodes.len()), (0, 1));
}

#[test]
fn captures_of_before_are_kept_and_one_of_before_an_incident_stands_beside_its_own() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let capture = |took_usec| v1::CaptureResult {
        incident_id: "i".to_owned(),
        vm_uid: "a".to_owned(),
        took_usec,
        ..v1::CaptureResult::default()
    };
    let raw = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    raw.execute_batch(
        "DROP TABLE capture; CREATE TABLE capture (incident TEXT NOT NULL, node TEXT NOT NULL, vm_uid TEXT NOT NULL,
         body BLOB NOT NULL, PRIMARY KEY (incident, node, vm_uid)) STRICT; PRAGMA user_version = 4",
    )
    .unwrap();
    raw.execute("INSERT INTO capture VALUES ('i', 'n1', 'a', ?1)", [capture(1).encode_to_vec()]).unwrap();
    drop(raw);
    let (mut store, _) = SqliteStore::open(folder.path()).unwrap();
    let write = |took_usec, is_early| {
        Write::Capture(CaptureWrite { node: "n1".to_owned(), result: capture(took_usec), is_early })
    };
    store.commit(&[write(2, false), write(3, true), write(4, true)]).unwrap();
    let captures = store.history().unwrap().captures("i").unwrap();
    let took: Vec<u64> = captures.into_iter().filter_map(|capture| Some(capture.result?.took_usec)).collect();
    assert_eq!(took, [3, 1]);
}

#[test]
fn what_nobody_vouches_for_stays_unknown_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = SqliteStore::open(folder.path()).unwrap();
    let key = CurrentKey::of(&record(1, Status::Present)).unwrap();
    let forgotten = Forgotten { since: Moment { wall_usec: NOW, boottime_usec: 9 }, because: "why".to_owned() };
    let forget = RecordsWrite { changes: vec![Change::Forget(key, forgotten)], ..RecordsWrite::new(stream(), NOW) };
    store.commit(&[write(1, Status::Present, NOW), Write::Records(forget)]).unwrap();
    drop(store);
    let (mut store, loaded) = SqliteStore::open(folder.path()).unwrap();
    let view = loaded.nodes[0].view();
    assert_eq!((view.states[0].status, view.states[0].unknown_because.as_deref()), (Status::Unknown, Some("why")));
    store.commit(&[write(2, Status::Absent, NOW)]).unwrap();
    drop(store);
    let (_store, loaded) = SqliteStore::open(folder.path()).unwrap();
    assert_eq!(loaded.nodes[0].view().states[0].status, Status::Absent, "a new look ends it");
}

#[test]
fn a_silent_node_is_silent_after_a_restart_too() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = SqliteStore::open(folder.path()).unwrap();
    let node = NodeWrite { stream: stream(), hello: Vec::new(), applied_offset_usec: 0, is_silent: true };
    store.commit(&[write(1, Status::Present, NOW), Write::Node(node)]).unwrap();
    drop(store);
    let (_store, loaded) = SqliteStore::open(folder.path()).unwrap();
    assert_eq!(loaded.nodes[0].view().states[0].status, Status::Unknown);
    let mut state = CurrentState::new(Limits::default(), Moment::default());
    loaded.nodes.into_iter().for_each(|node| state.restore(node));
    assert_eq!(state.check_silence(Moment { wall_usec: 0, boottime_usec: DAY }), [], "it fell silent before");
}

#[test]
fn a_node_that_was_forgotten_is_none_after_a_restart_and_its_history_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = SqliteStore::open(folder.path()).unwrap();
    let hello = v1::Hello { node: "n1".to_owned(), ..v1::Hello::default() }.encode_to_vec();
    let node = NodeWrite { stream: stream(), hello, applied_offset_usec: 0, is_silent: true };
    store.commit(&[write(1, Status::Present, NOW), Write::Node(node), Write::Forget(stream())]).unwrap();
    assert_eq!(seqs(&store, &all()), [1]);
    drop(store);
    let (mut store, loaded) = SqliteStore::open(folder.path()).unwrap();
    assert!(loaded.nodes.is_empty());
    store.commit(&[write(2, Status::Present, NOW)]).unwrap();
    assert_eq!(seqs(&store, &HistoryQuery { node: "n1".to_owned(), ..all() }), [1, 2], "it came back under its name");
    drop(store);
    assert_eq!(SqliteStore::open(folder.path()).unwrap().1.nodes.len(), 1);
}

#[test]
fn history_is_read_by_time_filter_and_page() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = SqliteStore::open(folder.path()).unwrap();
    // Received on three days, one of them in the wrong order.
    let days = [0, 2 * DAY, DAY, DAY, 0];
    for (seq, day) in (1..).zip(days) {
        let status = if seq == 3 { Status::Absent } else { Status::Present };
        store.commit(&[write(seq, status, NOW + day)]).unwrap();
    }
    assert_eq!(seqs(&store, &all()), [1, 2, 3, 4, 5]);
    assert_eq!(seqs(&store, &HistoryQuery { include_absent: false, ..all() }), [1, 2, 4, 5]);
    assert_eq!(seqs(&store, &HistoryQuery { from_wall_usec: NOW + 2, to_wall_usec: NOW + 4, ..all() }), [2, 3, 4]);
    assert_eq!(seqs(&store, &HistoryQuery { node: "n2".to_owned(), ..all() }), [] as [u64; 0]);
    assert_eq!(seqs(&store, &HistoryQuery { code: "KubeletInactive".to_owned(), ..all() }).len(), 5);
    assert_eq!(seqs(&store, &HistoryQuery { subject: "node".to_owned(), ..all() }).len(), 0);

    let mut history = store.history().unwrap();
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = history.read(&HistoryQuery { limit: 2, after, ..all() }).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.position);
        paged.extend(page.iter().map(|entry| entry.record.seq));
    }
    assert_eq!(paged, [1, 2, 3, 4, 5]);
}

#[test]
fn rows_of_one_time_are_paged_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = SqliteStore::open(folder.path()).unwrap();
    for seq in 1..=6 {
        let Write::Records(mut one) = write(seq, Status::Present, NOW + DAY * i64::try_from(seq % 2).unwrap()) else {
            unreachable!("write makes records")
        };
        one.history[0].at_wall_usec = NOW;
        store.commit(&[Write::Records(one)]).unwrap();
    }
    let mut history = store.history().unwrap();
    let (mut paged, mut after) = (Vec::new(), None);
    while paged.len() < 10 {
        let page = history.read(&HistoryQuery { limit: 1, after, ..all() }).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.position);
        paged.push(last.record.seq);
    }
    paged.sort_unstable();
    assert_eq!(paged, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn old_days_are_dropped_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = SqliteStore::open(folder.path()).unwrap();
    for (seq, day) in (1..).zip([0, 1, 2]) {
        store.commit(&[write(seq, Status::Present, NOW + day * DAY)]).unwrap();
    }
    assert_eq!(store.drop_history_before(NOW + DAY).unwrap(), 1);
    assert_eq!(seqs(&store, &all()), [2, 3]);
    assert_eq!(store.drop_history_before(NOW + DAY).unwrap(), 0);
    store.commit(&[write(4, Status::Present, NOW)]).unwrap();
    assert_eq!(seqs(&store, &all()), [2, 3, 4], "the day is made again where it is needed");
}

#[track_caller]
fn check_refused(folder: &Path, want: &str) {
    let error = SqliteStore::open(folder).unwrap_err();
    let text = Chain(&error).to_string().replace(&folder.display().to_string(), "DIR");
    assert_eq!(text, want);
    assert!(!error.fix().is_empty());
}

fn filled(folder: &Path) {
    let (mut store, _) = SqliteStore::open(folder).unwrap();
    for seq in 1..=2_000 {
        store.commit(&[write(seq, Status::Present, NOW)]).unwrap();
    }
}

#[test]
fn a_file_cut_short_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let path = folder.path().join(FILE_NAME);
    let n_bytes = fs::metadata(&path).unwrap().len();
    for keep in [n_bytes / 2, 8_192 + 17, 4_096, 60] {
        fs::File::options().write(true).open(&path).unwrap().set_len(keep).unwrap();
        check_refused(folder.path(), "the store `DIR/central.db` is damaged: database disk image is malformed");
    }
}

#[test]
fn an_emptied_file_is_made_anew_and_told_from_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    assert!(!SqliteStore::open(folder.path()).unwrap().1.was_empty, "there was none");
    assert!(!SqliteStore::open(folder.path()).unwrap().1.was_empty, "it was filled");
    fs::File::options().write(true).open(folder.path().join(FILE_NAME)).unwrap().set_len(0).unwrap();
    let (mut store, loaded) = SqliteStore::open(folder.path()).unwrap();
    assert!(loaded.was_empty && loaded.nodes.is_empty());
    store.commit(&[write(1, Status::Present, NOW)]).unwrap();
}

#[test]
fn a_file_that_is_no_database_is_foreign() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(FILE_NAME), "hello, I am a text\n".repeat(100)).unwrap();
    check_refused(folder.path(), "`DIR/central.db` is not a store of kulprit-central: it is no SQLite database");
    let left = fs::read_to_string(folder.path().join(FILE_NAME)).unwrap();
    assert!(left.starts_with("hello"), "it is not touched");
}

#[test]
fn a_database_of_another_program_is_foreign() {
    let folder = tempfile::tempdir().unwrap();
    let other = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    other.execute_batch("CREATE TABLE place (name TEXT)").unwrap();
    check_refused(
        folder.path(),
        "`DIR/central.db` is not a store of kulprit-central: a SQLite database of another program (application id 0x0, 1 tables)",
    );
}

#[test]
fn a_newer_schema_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    Connection::open(folder.path().join(FILE_NAME)).unwrap().execute_batch("PRAGMA user_version = 7").unwrap();
    check_refused(
        folder.path(),
        "the store `DIR/central.db` has schema version 7, and this kulprit-central knows versions up to 5",
    );
}

#[test]
fn two_centrals_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let _first = SqliteStore::open(folder.path()).unwrap();
    check_refused(folder.path(), "the data folder `DIR` is in use by another kulprit-central");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = SqliteStore::open(&file).unwrap_err();
    assert!(matches!(error, StoreError::Folder { .. }), "{error:?}");
}

#[test]
fn rows_of_a_newer_version_are_counted_and_left() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = SqliteStore::open(folder.path()).unwrap();
    store.commit(&[write(1, Status::Present, NOW)]).unwrap();
    drop(store);
    let raw = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    raw.execute_batch("INSERT INTO current (stream, key, body) VALUES (1, 'state/NewCode/node', x'ffff')").unwrap();
    drop(raw);
    let (_store, loaded) = SqliteStore::open(folder.path()).unwrap();
    assert_eq!((loaded.n_unreadable, loaded.nodes[0].view().states.len()), (1, 1));
}
