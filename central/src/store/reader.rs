//! The one thread that answers questions about history, with a deadline for whoever asks.
//!
//! A disk that hangs holds this thread and no other: askers get [`StoreError::NoAnswer`], and no second thread is spent.

use std::{io, thread, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{History, HistoryEntry, HistoryQuery, StoreError};

/// How long an asker waits: what a person at a terminal accepts.
const DEADLINE: Duration = Duration::from_secs(5);
/// Questions that may wait; more are turned away with [`StoreError::NoAnswer`].
const MAX_WAITING: usize = 16;

type Answer = Result<Vec<HistoryEntry>, StoreError>;

/// The way to the thread; clones share it.
#[derive(Clone, Debug)]
pub struct HistoryReader(mpsc::Sender<(HistoryQuery, oneshot::Sender<Answer>)>);

impl HistoryReader {
    /// Starts the thread; it ends with the last clone.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start<H: History>(mut history: H) -> io::Result<Self> {
        let (questions, mut asked) = mpsc::channel::<(HistoryQuery, oneshot::Sender<Answer>)>(MAX_WAITING);
        thread::Builder::new().name("history".to_owned()).spawn(move || {
            while let Some((query, answer)) = asked.blocking_recv() {
                // Nobody waits any more: the deadline has passed.
                if !answer.is_closed() {
                    let _ = answer.send(history.read(&query));
                }
            }
        })?;
        Ok(Self(questions))
    }

    /// Rows of the history, oldest first.
    ///
    /// # Errors
    /// If the database refuses, or does not answer within 5 s.
    pub async fn read(&self, query: HistoryQuery) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.0.try_send((query, answer)).map_err(|_| StoreError::NoAnswer)?;
        match timeout(DEADLINE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(StoreError::NoAnswer),
        }
    }
}
