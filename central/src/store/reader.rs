//! The one thread that answers questions about history, with a deadline for whoever asks.
//!
//! A disk that hangs holds this thread and no other: askers get [`StoreError::NoAnswer`], and no second thread is spent.

use std::{io, thread, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use kulprit_proto::v1;

use super::{History, HistoryEntry, HistoryQuery, StoreError};

/// How long an asker waits: what a person at a terminal accepts.
const DEADLINE: Duration = Duration::from_secs(5);
/// Questions that may wait; more are turned away with [`StoreError::NoAnswer`].
const MAX_WAITING: usize = 16;

type Answer<T> = Result<Vec<T>, StoreError>;

enum Question {
    History(HistoryQuery, oneshot::Sender<Answer<HistoryEntry>>),
    Captures(String, oneshot::Sender<Answer<v1::Capture>>),
}

/// The way to the thread; clones share it.
#[derive(Clone, Debug)]
pub struct HistoryReader(mpsc::Sender<Question>);

impl HistoryReader {
    /// Starts the thread; it ends with the last clone.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start<H: History>(mut history: H) -> io::Result<Self> {
        let (questions, mut asked) = mpsc::channel::<Question>(MAX_WAITING);
        thread::Builder::new().name("history".to_owned()).spawn(move || {
            while let Some(question) = asked.blocking_recv() {
                match question {
                    Question::History(query, answer) => reply(answer, || history.read(&query)),
                    Question::Captures(incident, answer) => reply(answer, || history.captures(&incident)),
                }
            }
        })?;
        Ok(Self(questions))
    }

    /// Rows of the history, oldest first.
    ///
    /// # Errors
    /// If the database refuses, or does not answer within 5 s.
    pub async fn read(&self, query: HistoryQuery) -> Answer<HistoryEntry> {
        self.ask(|answer| Question::History(query, answer)).await
    }

    /// The captures of an incident, by node and VM.
    ///
    /// # Errors
    /// As [`HistoryReader::read`].
    pub async fn captures(&self, incident_id: String) -> Answer<v1::Capture> {
        self.ask(|answer| Question::Captures(incident_id, answer)).await
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<Answer<T>>) -> Question) -> Answer<T> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(question(answer)).map_err(|_| StoreError::NoAnswer)?;
        match timeout(DEADLINE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(StoreError::NoAnswer),
        }
    }
}

/// Answers, unless nobody waits any more: the deadline has passed.
fn reply<T>(answer: oneshot::Sender<T>, read: impl FnOnce() -> T) {
    if !answer.is_closed() {
        let _ = answer.send(read());
    }
}
