//! The two requests of a watch, a page of the list and the stream of changes, and how they fail.
//!
//! Not `kube::runtime::watcher`: it parses a whole page at once, so that one object that cannot be parsed (nested too deep) would hide
//! all others of its kind, and it keeps silent when a watch stands again, so that a quiet kind would stay unknown after an outage. The
//! client, its authentication and its TLS are kube's.
//!
//! Every request has a deadline. Lists ask for what is newest: one from a cache could be older than what was watched before it.

use std::{fmt, io, time::Duration};

use http::{
    HeaderMap, Request as HttpRequest, Response, StatusCode,
    header::{DATE, RETRY_AFTER},
};
use http_body_util::BodyExt as _;
use jiff::fmt::rfc2822;
use kube::{
    Client,
    api::{ListParams, Request, WatchParams},
    client::Body,
    core::Status,
};
use kulprit_daemon::Chain;
use tokio::time::{Instant, timeout};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::{
    codec::{FramedRead, LinesCodec, LinesCodecError},
    io::StreamReader,
};

use super::kinds::Row;

/// Objects of a page: of the largest (nodes, VMIs) about 10 MB.
const PAGE_OBJECTS: u32 = 250;
/// For an answer, the whole page or the begin of a stream: the API server itself gives up after 60 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(65);
/// A line is one object; etcd takes 1.5 MB unless told otherwise.
const MAX_LINE_BYTES: usize = 32 << 20;
/// More of a message is of no use.
const MAX_MESSAGE_CHARS: usize = 300;

/// Why there is no answer, or not the one that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The API server says no.
    Status {
        /// HTTP's code.
        code: u16,
        /// In the API server's words.
        message: String,
        /// When it wants to be asked again.
        retry_after: Duration,
    },
    /// Nobody answers, or not in time.
    NoAnswer(String),
    /// What the answer says cannot be told: it is none of Kubernetes' API, or the API server cannot tell a change.
    Garbled(String),
    /// Streams end as soon as they begin.
    Cut,
}

/// An answer, and when it was given by the API server's own clock.
pub(super) struct Answer<T> {
    pub(super) what: T,
    /// Whole seconds, as Unix microseconds; `None` if it does not say.
    pub(super) date_usec: Option<i64>,
    /// When it was asked for.
    pub(super) asked: Instant,
}

/// The API server, asked for one row.
pub(super) struct Requests {
    client: Client,
    row: &'static Row,
    request: Request,
    /// Streams end by themselves after so long.
    stream_secs: u32,
}

impl Requests {
    pub(super) fn new(client: Client, row: &'static Row, stream_secs: u32) -> Self {
        Self { client, row, request: Request::new(row.path()), stream_secs }
    }

    /// The text of a page.
    pub(super) async fn page(&self, token: Option<String>) -> Result<Answer<String>, Failure> {
        let params = ListParams {
            label_selector: self.row.labels.map(ToOwned::to_owned),
            limit: Some(PAGE_OBJECTS),
            continue_token: token,
            ..ListParams::default()
        };
        let request = self.request.list(&params).map_err(Failure::garbled)?;
        in_time(async {
            let Answer { what, date_usec, asked } = ask(&self.client, request).await?;
            Ok(Answer { what: text(what).await?, date_usec, asked })
        })
        .await
    }

    /// The changes after a `resourceVersion`, as lines.
    pub(super) async fn changes(
        &self,
        version: &str,
    ) -> Result<Answer<impl Stream<Item = Result<String, LinesCodecError>> + Send + Unpin + use<>>, Failure> {
        let params = WatchParams {
            label_selector: self.row.labels.map(ToOwned::to_owned),
            timeout: Some(self.stream_secs),
            ..WatchParams::default()
        };
        let request = self.request.watch(&params, version).map_err(Failure::garbled)?;
        let Answer { what, date_usec, asked } = in_time(ask(&self.client, request)).await?;
        let chunks = what.into_data_stream().map(|chunk| chunk.map_err(io::Error::other));
        let lines = FramedRead::new(StreamReader::new(chunks), LinesCodec::new_with_max_length(MAX_LINE_BYTES));
        Ok(Answer { what: lines, date_usec, asked })
    }
}

/// Not kube's own `request_*`: they keep the headers of an answer to themselves.
pub(super) async fn ask(client: &Client, request: HttpRequest<Vec<u8>>) -> Result<Answer<Body>, Failure> {
    let asked = Instant::now();
    let response: Response<Body> = client.send(request.map(Body::from)).await.map_err(Failure::of)?;
    let (head, body) = response.into_parts();
    if head.status.is_client_error() || head.status.is_server_error() {
        return Err(Failure::of_refusal(head.status, retry_after(&head.headers), &text(body).await?));
    }
    Ok(Answer { what: body, date_usec: date_usec(&head.headers), asked })
}

pub(super) async fn text(body: Body) -> Result<String, Failure> {
    let bytes = body.collect_bytes().await.map_err(Failure::of)?;
    String::from_utf8(bytes.into()).map_err(Failure::garbled)
}

/// What a header says in seconds. Its other form, a date, Kubernetes does not use.
fn retry_after(headers: &HeaderMap) -> Duration {
    let secs = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Duration::from_secs(secs.unwrap_or(0))
}

fn date_usec(headers: &HeaderMap) -> Option<i64> {
    let date = rfc2822::parse(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(date.timestamp().as_microsecond())
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let too_late = || Failure::NoAnswer(format!("no answer within {} s", ANSWER_WITHIN.as_secs()));
    timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| Err(too_late()))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code, message, .. } => write!(f, "{code}: {message}"),
            Self::NoAnswer(why) | Self::Garbled(why) => f.write_str(why),
            Self::Cut => f.write_str("each stream of changes ends as soon as it begins"),
        }
    }
}

impl Failure {
    /// HTTP's code, 0 for none: what tells outages apart.
    pub(crate) const fn code(&self) -> u16 {
        match self {
            Self::Status { code, .. } => *code,
            Self::NoAnswer(_) | Self::Garbled(_) | Self::Cut => 0,
        }
    }

    /// Whether it is about the one object that was asked for, as a webhook's no is: others may go well. That nobody believes who we are, and
    /// that the API server has no time, is not.
    pub(crate) const fn is_of_one(&self) -> bool {
        matches!(self, Self::Status { code: 400..=499, .. }) && !matches!(self.code(), 401 | 429)
    }

    /// The word in metrics.
    pub(crate) const fn outcome(&self) -> &'static str {
        match self {
            Self::Status { code: 403, .. } => "forbidden",
            Self::Status { code: 404, .. } => "gone",
            Self::Status { code: 409, .. } => "conflict",
            Self::Status { code: 429, .. } => "throttled",
            Self::Status { code: 500..=599, .. } => "server",
            Self::Status { .. } => "refused",
            Self::NoAnswer(_) | Self::Garbled(_) | Self::Cut => "no_answer",
        }
    }

    pub(crate) fn garbled(what: impl fmt::Display) -> Self {
        Self::Garbled(format!("an answer that is none of Kubernetes: {}", shortened(&what.to_string())))
    }

    /// The text is a `Status`, or whatever a proxy or the API server's own limits (`429`) write in its place.
    fn of_refusal(code: StatusCode, retry_after: Duration, text: &str) -> Self {
        let status = serde_json::from_str::<Status>(text).unwrap_or_else(|_| Status::failure(text, ""));
        match Self::of_status(&status.with_code(code.as_u16())) {
            Self::Status { code, message, retry_after: in_text } => {
                Self::Status { code, message, retry_after: in_text.max(retry_after) }
            }
            failure => failure,
        }
    }

    /// What the word means that ends a stream: asked again from the same version, the API server would come to the same end.
    pub(super) fn of_stream(status: &Status) -> Self {
        match Self::of_status(status) {
            Self::Status { code, message, .. } if code != 410 => {
                Self::Garbled(format!("the stream of changes broke: {code}: {message}"))
            }
            failure => failure,
        }
    }

    fn of_status(status: &Status) -> Self {
        let retry_secs = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        let message = if status.message.is_empty() { &status.reason } else { &status.message };
        Self::Status {
            code: status.code,
            message: shortened(message),
            retry_after: Duration::from_secs(u64::from(retry_secs)),
        }
    }

    fn of(error: kube::Error) -> Self {
        match error {
            kube::Error::Service(error) => Self::NoAnswer(shortened(&Chain(error.as_ref()).to_string())),
            other => Self::NoAnswer(shortened(&Chain(&other).to_string())),
        }
    }
}

/// A proxy answers with a page of HTML.
fn shortened(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
