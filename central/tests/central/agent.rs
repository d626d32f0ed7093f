//! An agent that says what the test tells it to.

use std::{net::SocketAddr, time::Duration};

use kulprit_model::{Attributes, Body, Domain, FindingCode, Moment, Record, Stamp, State, Status, Subject};
use kulprit_proto::v1::{
    self, AgentMessage, CentralMessage, agent_message::Message, central_message, ingest_client::IngestClient,
};
use kulprit_tls::{Client, Connector};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

/// Nothing in a test takes longer, whatever else the machine does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// Connects with the first question.
pub(crate) fn lazy_channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// By TLS.
pub(crate) async fn channel_by(client: Client, address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    endpoint.connect_with_connector(Connector::new(client)).await
}

pub(crate) fn hello(node: &str, epoch: u64, now: Moment) -> v1::Hello {
    v1::Hello {
        node: node.to_owned(),
        boot_id: "boot-1".to_owned(),
        epoch,
        agent_version: "0.0.0-test".to_owned(),
        sent: Some(now.into()),
        ..v1::Hello::default()
    }
}

pub(crate) fn state(code: FindingCode, subject: Subject, status: Status, at: Moment) -> Body {
    Body::State(State {
        code,
        subject,
        status,
        since: at,
        looked: at,
        unknown_because: (status == Status::Unknown).then(|| "a test".to_owned()),
        attributes: Attributes::new(),
        evidence: Vec::new(),
    })
}

pub(crate) fn kubelet(status: Status, at: Moment) -> Body {
    state(FindingCode::KubeletInactive, Subject::unit("kubelet.service"), status, at)
}

/// A running domain.
pub(crate) fn domain(uid: &str, name: &str, at: Moment) -> Body {
    Body::Domain(Domain {
        uid: uid.to_owned(),
        name: name.to_owned(),
        state: 1,
        reason: 1,
        since: at,
        is_persistent: true,
    })
}

pub(crate) fn record(epoch: u64, seq: u64, body: Body, at: Moment) -> v1::Record {
    Record { stamp: Stamp { boot_id: "boot-1".to_owned(), epoch, seq, at }, body }.into()
}

#[derive(Debug)]
pub(crate) struct Agent {
    to_central: mpsc::Sender<AgentMessage>,
    from_central: Streaming<CentralMessage>,
    epoch: u64,
    pub(crate) seq: u64,
}

impl Agent {
    /// Opens a stream and says Hello.
    pub(crate) async fn connect(address: SocketAddr, hello: v1::Hello) -> Self {
        Self::try_connect(address, hello).await.unwrap()
    }

    /// The same, where it may be refused.
    pub(crate) async fn try_connect(address: SocketAddr, hello: v1::Hello) -> Result<Self, tonic::Status> {
        Self::try_connect_on(channel(address).await, hello).await
    }

    /// Says Hello on a connection that is there.
    pub(crate) async fn connect_on(channel: Channel, hello: v1::Hello) -> Self {
        Self::try_connect_on(channel, hello).await.unwrap()
    }

    async fn try_connect_on(channel: Channel, hello: v1::Hello) -> Result<Self, tonic::Status> {
        let epoch = hello.epoch;
        let agent = Self::open_on(channel, Message::Hello(hello)).await?;
        Ok(Self { epoch, ..agent })
    }

    /// Opens a stream with another first message.
    pub(crate) async fn open(address: SocketAddr, first: Message) -> Self {
        Self::open_on(channel(address).await, first).await.unwrap()
    }

    /// The same on a connection that is there.
    pub(crate) async fn open_on(channel: Channel, first: Message) -> Result<Self, tonic::Status> {
        Self::try_open_on(channel, first, None).await
    }

    /// The same with a token; an error if the stream is refused.
    pub(crate) async fn try_open(
        address: SocketAddr,
        first: Message,
        token: Option<&str>,
    ) -> Result<Self, tonic::Status> {
        Self::try_open_on(channel(address).await, first, token).await
    }

    /// Opens a stream and says nothing.
    pub(crate) async fn open_silent(address: SocketAddr) -> Self {
        Self::try_begin(channel(address).await, None, None).await.unwrap()
    }

    async fn try_open_on(channel: Channel, first: Message, token: Option<&str>) -> Result<Self, tonic::Status> {
        Self::try_begin(channel, Some(first), token).await
    }

    async fn try_begin(channel: Channel, first: Option<Message>, token: Option<&str>) -> Result<Self, tonic::Status> {
        let (to_central, messages) = mpsc::channel(1_024);
        if first.is_some() {
            to_central.send(AgentMessage { message: first }).await.unwrap();
        }
        let mut request = tonic::Request::new(ReceiverStream::new(messages));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let from_central = IngestClient::new(channel).report(request).await?.into_inner();
        Ok(Self { to_central, from_central, epoch: 1, seq: 0 })
    }

    pub(crate) async fn send(&self, message: Message) {
        self.to_central.send(AgentMessage { message: Some(message) }).await.unwrap();
    }

    /// Sends the next record; returns its number.
    pub(crate) async fn say(&mut self, body: Body, at: Moment) -> u64 {
        self.seq += 1;
        self.send(Message::Record(record(self.epoch, self.seq, body, at))).await;
        self.seq
    }

    /// Sends a whole snapshot.
    pub(crate) async fn snapshot(&mut self, bodies: Vec<Body>, at: Moment) {
        self.send(Message::SnapshotBegin(v1::SnapshotBegin {})).await;
        for body in bodies {
            self.say(body, at).await;
        }
        self.send(Message::SnapshotEnd(v1::SnapshotEnd { seq: self.seq })).await;
    }

    /// Waits until everything up to `seq` is acked.
    pub(crate) async fn acked(&mut self, seq: u64) {
        while self.next_ack().await.unwrap().seq < seq {}
    }

    /// The next ack, or the end of the stream.
    pub(crate) async fn next_ack(&mut self) -> Result<v1::Ack, tonic::Status> {
        loop {
            match self.next_message().await? {
                central_message::Message::Ack(ack) => return Ok(ack),
                central_message::Message::Suspects(_) | central_message::Message::CaptureRequest(_) => {}
            }
        }
    }

    /// What central says next, or the end of the stream.
    pub(crate) async fn next_message(&mut self) -> Result<central_message::Message, tonic::Status> {
        let message = timeout(PATIENCE, self.from_central.message()).await.expect("central says something in time")?;
        message.and_then(|message| message.message).ok_or_else(|| tonic::Status::ok("the stream ended"))
    }

    /// Waits for the end of the stream.
    pub(crate) async fn end(&mut self) -> tonic::Status {
        loop {
            if let Err(status) = self.next_ack().await {
                return status;
            }
        }
    }
}
