//! What one caller may take, and what becomes of the others meanwhile: real connections, real streams.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use kulprit_central::config::LimitConfig;
use kulprit_model::{FindingCode, Status, Subject};
use kulprit_proto::v1::{self, agent_message::Message};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    runtime::Handle,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, transport::Endpoint};

use crate::{
    agent::{Agent, PATIENCE, hello, kubelet, record, state},
    app::App,
};

/// What an attacker of these tests connects from.
const FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

async fn connect_from(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// Whether the other side has closed it, or does within a moment.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    matches!(timeout(Duration::from_millis(200), stream.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
}

/// Says something, and has it acked.
async fn says(agent: &mut Agent, app: &App, status: Status) {
    let seq = agent.say(kubelet(status, app.now()), app.now()).await;
    agent.acked(seq).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_says_too_much_gets_its_share_and_nobody_else_waits() {
    const PER_SEC: u32 = 2_000;
    const AT_ONCE: u32 = 4_000;
    let folder = tempfile::tempdir().unwrap();
    let limits = LimitConfig { messages_per_second: PER_SEC, messages_at_once: AT_ONCE, ..LimitConfig::default() };
    let app = App::start_limited(folder.path(), limits).await;
    let (now, grpc) = (app.now(), app.grpc());
    let mut well = app.agent(1).await;
    well.snapshot(vec![kubelet(Status::Absent, now)], now).await;
    well.acked(1).await;
    let began = Instant::now();
    let attack = tokio::spawn(async move {
        let mut attacker = Agent::connect(grpc, hello("n2", 1, now)).await;
        while began.elapsed() < Duration::from_secs(4) {
            // As fast as the wire takes it: more than 100,000 a second if anybody read it.
            let said = attacker.say(kubelet(Status::Present, now), now);
            if timeout(Duration::from_millis(100), said).await.is_err() {
                attacker.seq -= 1;
            }
        }
        let mut acked = 0;
        while let Ok(Ok(ack)) = timeout(Duration::from_millis(500), attacker.next_ack()).await {
            acked = ack.seq;
        }
        (acked, began.elapsed())
    });
    let mut waits = Vec::new();
    while !attack.is_finished() {
        let said = Instant::now();
        says(&mut well, &app, Status::Present).await;
        waits.push(said.elapsed());
        sleep(Duration::from_millis(5)).await;
    }
    let (acked, took) = attack.await.unwrap();
    waits.sort();
    let p99 = waits[waits.len() * 99 / 100];
    println!("{acked} of the attacker acked in {took:?}; the other: {} acks, p99 {p99:?}", waits.len());
    let share = f64::from(AT_ONCE) + f64::from(PER_SEC) * took.as_secs_f64() + 512.0;
    assert!(acked > u64::from(AT_ONCE) / 2, "its share is taken: {acked}");
    assert!(f64::from(u32::try_from(acked).unwrap()) < share, "{acked} in {took:?}");
    assert!(app.metric("kulprit_central_rests_total").await > 0);
    // A new stream is no new share.
    let mut again = Agent::connect(app.grpc(), hello("n2", 2, now)).await;
    let began = Instant::now();
    for _ in 0..AT_ONCE {
        again.say(kubelet(Status::Present, now), now).await;
    }
    let is_last = |ack: &v1::Ack| ack.epoch == 2 && ack.seq == u64::from(AT_ONCE);
    while !is_last(&again.next_ack().await.unwrap()) {}
    let took = began.elapsed();
    assert!(took > Duration::from_millis(500), "as much at once again after all was used up, in {took:?}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_node_so_much_is_kept_in_memory_and_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let limits = LimitConfig { history_at_once: 5_000, history_per_hour: 1, ..LimitConfig::default() };
    let app = App::start_limited(folder.path(), limits).await;
    let mut agent = app.agent(1).await;
    let now = app.now();
    agent.send(Message::SnapshotBegin(v1::SnapshotBegin {})).await;
    for n in 0..17_000 {
        let unit = Subject::unit(format!("u{n:05}.service"));
        agent.say(state(FindingCode::KubeletInactive, unit, Status::Present, now), now).await;
    }
    agent.send(Message::SnapshotEnd(v1::SnapshotEnd { seq: 17_000 })).await;
    agent.acked(17_000).await;
    assert_eq!(app.metric("kulprit_central_records_total{outcome=\"excess\"}").await, 17_000 - 16_384);
    assert_eq!(app.metric("kulprit_central_unkept_records_total").await, 12_000);
    // What is known can still change, and what is too much once it is larger is Unknown, not what it was.
    let first = Subject::unit("u00000.service");
    agent.say(state(FindingCode::KubeletInactive, first, Status::Absent, now), now).await;
    agent.acked(17_001).await;
    app.wait_for_metric("kulprit_central_states{status=\"absent\"} 1").await;
    assert_eq!(app.metric("kulprit_central_states{status=\"present\"}").await, 16_383);
    app.stop().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_its_size_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let large = |bytes: usize| {
        let mut large = record(1, 1, kubelet(Status::Present, app.now()), app.now());
        if let Some(v1::record::Body::State(state)) = &mut large.body {
            let text = "x".repeat(bytes);
            state.attributes.push(v1::Attribute { key: "path".to_owned(), value: text });
        }
        Message::Record(large)
    };
    let mut agent = app.agent(1).await;
    agent.send(large(30_000)).await;
    agent.acked(1).await;
    assert_eq!(app.metric("kulprit_central_records_total{outcome=\"malformed\"}").await, 1);
    agent.send(large(2 << 20)).await;
    let end = agent.end().await;
    assert_eq!((end.code(), end.message().contains("larger than 1 MiB")), (Code::OutOfRange, true), "{end:?}");
    app.wait_for_metric("kulprit_central_stream_ends_total{reason=\"oversize\"} 1").await;
    assert_eq!(app.findings().await, [""; 0]);
    app.stop().await;
}

#[tokio::test]
async fn who_reads_no_acks_is_heard_and_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    // Room for one or two acks; nobody reads them.
    let endpoint = Endpoint::from_shared(format!("http://{}", app.grpc())).unwrap();
    let channel = endpoint.initial_stream_window_size(40).connect().await.unwrap();
    let deaf = Message::Hello(hello("n2", 1, app.now()));
    let mut deaf = Agent::open_on(channel, deaf).await.unwrap();
    deaf.snapshot(vec![], app.now()).await;
    let mut well = app.agent(1).await;
    well.snapshot(vec![], app.now()).await;
    for n in 0..200 {
        let status = if n % 2 == 0 { Status::Present } else { Status::Absent };
        deaf.say(kubelet(status, app.now()), app.now()).await;
        says(&mut well, &app, status).await;
    }
    deaf.say(kubelet(Status::Present, app.now()), app.now()).await;
    let [of_well, of_deaf] = ["Absent", "Present"].map(|word| format!("KubeletInactive unit/kubelet.service {word}"));
    app.wait_for_findings(&[&of_well, &of_deaf]).await;
    // It is told where it stands once it reads.
    deaf.acked(201).await;
    app.stop().await;
}

#[tokio::test]
async fn thousands_of_connections_leave_those_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![], app.now()).await;
    let (mut held, mut n_failed) = (Vec::new(), 0);
    for _ in 0..3_000 {
        match connect_from(FROM, app.grpc()).await {
            Ok(stream) => held.push(stream),
            Err(_) => n_failed += 1,
        }
    }
    app.wait_for_metric("kulprit_central_refused_connections_total{reason=\"address\"} 2744").await;
    assert_eq!(n_failed, 0);
    says(&mut agent, &app, Status::Present).await;
    let mut other = Agent::connect(app.grpc(), hello("n2", 1, app.now())).await;
    other.snapshot(vec![kubelet(Status::Present, app.now())], app.now()).await;
    other.acked(1).await;
    drop(held);
    // The agents and who asks.
    app.wait_for_metric("kulprit_central_connections 3").await;
    app.stop().await;
}

#[tokio::test]
async fn when_all_seats_are_taken_those_who_have_one_keep_it() {
    let folder = tempfile::tempdir().unwrap();
    let limits = LimitConfig { connections: 10, ..LimitConfig::default() };
    let app = App::start_limited(folder.path(), limits).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![], app.now()).await;
    let mut held = Vec::new();
    for n in 0..20 {
        held.push(connect_from(Ipv4Addr::new(127, 0, 0, 10 + n), app.grpc()).await.unwrap());
    }
    app.wait_for_metric("kulprit_central_refused_connections_total{reason=\"whole\"} 12").await;
    assert!(is_closed(held.last_mut().unwrap()).await);
    says(&mut agent, &app, Status::Present).await;
    drop(held);
    app.wait_for_metric("kulprit_central_connections 2").await;
    let mut other = Agent::connect(app.grpc(), hello("n2", 1, app.now())).await;
    other.snapshot(vec![kubelet(Status::Present, app.now())], app.now()).await;
    other.acked(1).await;
    app.stop().await;
}

#[tokio::test]
async fn garbage_on_the_port_ends_its_own_connection() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![], app.now()).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let settings = b"\0\0\0\x04\0\0\0\0\0".to_vec();
    let random: Vec<u8> = (0..65_536_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    // A frame that says it is 16 MiB; headers that never end, 64 KiB of them; data of a stream that nobody opened.
    let endless = [b"\0\x40\0\x01\0\0\0\0\x01".to_vec(), vec![0x40; 0x4000]].concat();
    let more = [b"\0\x40\0\x09\0\0\0\0\x01".to_vec(), vec![0x40; 0x4000]].concat();
    let bytes = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_vec(),
        random.clone(),
        [preface.clone(), random].concat(),
        [preface.clone(), settings.clone(), b"\xff\xff\xff\0\0\0\0\0\x01".to_vec()].concat(),
        [preface.clone(), settings.clone(), endless, more.clone(), more.clone(), more.clone(), more].concat(),
        [preface, settings, b"\0\0\x04\0\0\0\0\0\x07aaaa".to_vec()].concat(),
    ];
    for (n, bytes) in bytes.iter().enumerate() {
        let mut stream = TcpStream::connect(app.grpc()).await.unwrap();
        // It may be closed before all of it is sent.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "connection {n} stays open");
    }
    says(&mut agent, &app, Status::Present).await;
    app.wait_for_metric("kulprit_central_connections 2").await;
    app.stop().await;
}

#[tokio::test]
async fn who_trickles_a_frame_byte_by_byte_answers_no_ping_and_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![], app.now()).await;
    let mut slow = TcpStream::connect(app.grpc()).await.unwrap();
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    slow.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], settings].concat()).await.unwrap();
    let began = Instant::now();
    let closed = timeout(PATIENCE, async {
        // Of a frame of headers, 16 KiB long.
        let mut frame = b"\0\x40\0\x01\x04\0\0\0\x01".iter().copied().chain(std::iter::repeat(0x40));
        let mut rest = [0; 4_096];
        loop {
            slow.write_u8(frame.next().unwrap()).await?;
            match timeout(Duration::from_millis(200), slow.read(&mut rest)).await {
                Ok(Ok(0)) => return Ok::<(), std::io::Error>(()),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(_)) | Err(_) => {}
            }
        }
    });
    // Closed or reset.
    let _ = closed.await.expect("it is closed");
    println!("closed after {:?}", began.elapsed());
    says(&mut agent, &app, Status::Present).await;
    app.wait_for_metric("kulprit_central_connections 2").await;
    app.stop().await;
}

#[tokio::test]
async fn streams_opened_and_dropped_by_the_thousand_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![], app.now()).await;
    let before = Handle::current().metrics().num_alive_tasks();
    for n in 0..20 {
        let channel = crate::agent::channel(app.grpc()).await;
        for m in 0..100 {
            let first = match m % 3 {
                0 => Message::Hello(hello("n2", 1, app.now())),
                1 => Message::Heartbeat(v1::Heartbeat::default()),
                _ => Message::Hello(hello("", 1, app.now())),
            };
            // Central may have enough of a client that resets stream after stream; then another connection is due.
            if Agent::open_on(channel.clone(), first).await.is_err() {
                break;
            }
        }
        assert!(n < 20);
    }
    says(&mut agent, &app, Status::Present).await;
    app.wait_for_metric("kulprit_central_connections 2").await;
    app.wait_for_metric("kulprit_central_streams 1").await;
    let waited = timeout(PATIENCE, async {
        while Handle::current().metrics().num_alive_tasks() > before {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("no task is left over");
    app.stop().await;
}

#[tokio::test]
async fn two_agents_for_one_node_the_later_start_reports() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut later = app.agent(5).await;
    later.snapshot(vec![kubelet(Status::Present, app.now())], app.now()).await;
    later.acked(1).await;
    let mut earlier = app.agent(3).await;
    let end = earlier.end().await;
    assert_eq!(end.code(), Code::FailedPrecondition);
    assert_eq!(
        end.message(),
        "hello.epoch: 3, and start 5 of the agent of node n1 reports already; two agents say they are this node: stop one, or give each its --node-name"
    );
    says(&mut later, &app, Status::Absent).await;
    assert_eq!(app.metric("kulprit_central_stream_ends_total{reason=\"old_epoch\"}").await, 1);
    drop(later);
    app.wait_for_metric("kulprit_central_streams 0").await;
    // Its state folder was lost, perhaps: there is nobody else to believe.
    let mut earlier = app.agent(3).await;
    earlier.snapshot(vec![kubelet(Status::Present, app.now())], app.now()).await;
    earlier.acked(1).await;
    app.stop().await;
}

#[tokio::test]
async fn an_agent_of_another_cluster_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let theirs = v1::Hello { cluster: "elsewhere".to_owned(), ..hello("n1", 1, app.now()) };
    let end = Agent::connect(app.grpc(), theirs).await.end().await;
    assert_eq!(end.code(), Code::InvalidArgument);
    assert!(end.message().starts_with("hello.cluster: `elsewhere`, and this central is of cluster `lab`; leave"));
    assert_eq!(app.metric("kulprit_central_stream_ends_total{reason=\"other_cluster\"}").await, 1);
    assert_eq!(app.metric("kulprit_central_nodes{status=\"reporting\"}").await, 0);
    let ours = v1::Hello { cluster: "lab".to_owned(), ..hello("n1", 1, app.now()) };
    let mut ours = Agent::connect(app.grpc(), ours).await;
    ours.snapshot(vec![kubelet(Status::Present, app.now())], app.now()).await;
    ours.acked(1).await;
    app.stop().await;
}

#[tokio::test]
async fn nodes_beyond_the_limit_are_refused_and_the_others_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start_limited(folder.path(), LimitConfig { nodes: 2, ..LimitConfig::default() }).await;
    for node in ["n1", "n2", "n1"] {
        let mut agent = Agent::connect(app.grpc(), hello(node, 1, app.now())).await;
        agent.snapshot(vec![kubelet(Status::Present, app.now())], app.now()).await;
        agent.acked(1).await;
    }
    let end = Agent::connect(app.grpc(), hello("n3", 1, app.now())).await.end().await;
    assert_eq!(end.code(), Code::ResourceExhausted);
    assert_eq!(end.message(), "hello.node: 2 nodes are known, and no more are taken in; raise limits.nodes of central");
    assert_eq!(app.metric("kulprit_central_stream_ends_total{reason=\"too_many_nodes\"}").await, 1);
    app.stop().await;
}

#[tokio::test]
async fn numbers_that_go_back_or_jump_count_once_and_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![], app.now()).await;
    agent.seq = 99;
    says(&mut agent, &app, Status::Present).await;
    for seq in [50, 0, 99] {
        agent.seq = seq;
        says(&mut agent, &app, Status::Absent).await;
    }
    app.wait_for_findings(&["KubeletInactive unit/kubelet.service Present"]).await;
    assert_eq!(app.metric("kulprit_central_records_total{outcome=\"duplicate\"}").await, 3);
    assert_eq!(app.metric("kulprit_central_missing_records_total").await, 99);
    // To the end of all numbers: counted with measure, and what comes after it is old.
    agent.seq = u64::try_from(i64::MAX).unwrap() - 1;
    says(&mut agent, &app, Status::Absent).await;
    assert_eq!(app.metric("kulprit_central_missing_records_total").await, 99 + (1 << 24));
    agent.send(Message::Record(record(1, u64::MAX, kubelet(Status::Present, app.now()), app.now()))).await;
    app.wait_for_metric("kulprit_central_records_total{outcome=\"malformed\"} 1").await;
    app.wait_for_findings(&["KubeletInactive unit/kubelet.service Absent"]).await;
    let loss = v1::Loss { boot_id: "boot-1".to_owned(), epoch: 1, first_seq: 1, last_seq: u64::MAX, count: u64::MAX };
    agent.send(Message::Loss(loss)).await;
    app.wait_for_metric(&format!("kulprit_central_lost_records_total {}", 1 << 24)).await;
    app.stop().await;
}

#[tokio::test]
async fn a_capture_that_nobody_asked_for_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![], app.now()).await;
    let result = v1::CaptureResult {
        incident_id: "01K00000000000000000000000".to_owned(),
        vm_uid: "u".to_owned(),
        ..v1::CaptureResult::default()
    };
    agent.send(Message::CaptureResult(result)).await;
    app.wait_for_metric("kulprit_central_unasked_captures_total 1").await;
    says(&mut agent, &app, Status::Present).await;
    app.stop().await;
}
