//! The way out: messages to the agent.
//!
//! Writing waits when the agent does not read; the worker then stands still, and events it cannot keep are counted as
//! dropped. A list too long for a frame is sent in parts or cut; nothing larger than a frame is ever made.

use std::io::{self, Write};

use kulprit_proto::worker::{self, Disks, Domains, FromWorker, from_worker::Body};
use prost::Message;

use crate::frame::{FrameError, MAX_FRAME, encode};

/// Room left in a frame for what stands around a list, bytes.
const FRAME_MARGIN: usize = 1024;

/// The agent's end of the socket pair.
pub(crate) struct Out<W> {
    socket: W,
    /// Messages that fit no frame: none that we know of.
    n_unsendable: u64,
}

impl<W: Write> Out<W> {
    pub(crate) fn new(socket: W) -> Self {
        Self { socket, n_unsendable: 0 }
    }

    /// Sends one message about the daemon `target`, 0 for none; the disks of a domain are cut to what fits.
    ///
    /// # Errors
    /// The socket is broken: the agent is gone.
    pub(crate) fn send(&mut self, boot_usec: u64, target: u64, body: Body) -> io::Result<()> {
        let body = match body {
            Body::Disks(disks) => Body::Disks(cut_to_frame(disks)),
            body => body,
        };
        match encode(&FromWorker { boot_usec, target, body: Some(body) }) {
            Ok(frame) => self.socket.write_all(&frame),
            Err(FrameError::TooLong { .. }) => {
                self.n_unsendable += 1;
                Ok(())
            }
            Err(FrameError::Io(_) | FrameError::Truncated | FrameError::Decode(_)) => unreachable!("only of reading"),
        }
    }

    /// Messages left out since last asked, as they fit no frame.
    pub(crate) fn take_unsendable(&mut self) -> u64 {
        std::mem::take(&mut self.n_unsendable)
    }

    /// Sends a look at all domains, in as many parts as it needs.
    ///
    /// # Errors
    /// The socket is broken: the agent is gone.
    pub(crate) fn send_look(
        &mut self,
        boot_usec: u64,
        target: u64,
        look: u64,
        domains: Vec<worker::Domain>,
        took_usec: u64,
    ) -> io::Result<()> {
        let mut part = Vec::new();
        let mut part_len = 0;
        for domain in domains {
            let len = item_len(&domain);
            if part_len + len > MAX_FRAME - FRAME_MARGIN {
                let full = std::mem::take(&mut part);
                self.send(
                    boot_usec,
                    target,
                    Body::Domains(Domains { look, domains: full, last: false, took_usec: 0 }),
                )?;
                part_len = 0;
            }
            part_len += len;
            part.push(domain);
        }
        self.send(boot_usec, target, Body::Domains(Domains { look, domains: part, last: true, took_usec }))
    }
}

fn cut_to_frame(mut disks: Disks) -> Disks {
    let mut room = MAX_FRAME - FRAME_MARGIN - disks.uuid.len() - disks.name.len();
    let n_fitting = disks.disks.iter().take_while(|disk| {
        let len = item_len(*disk);
        let fits = len <= room;
        room = room.saturating_sub(len);
        fits
    });
    let n_fitting = n_fitting.count();
    disks.disks.truncate(n_fitting);
    disks
}

/// Bytes of an element of a list: itself, its tag and its length.
fn item_len(item: &impl Message) -> usize {
    item.encoded_len() + 6
}

#[cfg(test)]
mod tests {
    use kulprit_proto::worker::Disk;

    use super::*;
    use crate::frame;

    fn received(bytes: &[u8]) -> Vec<Body> {
        let mut from = bytes;
        std::iter::from_fn(|| frame::read::<FromWorker>(&mut from).unwrap())
            .filter_map(|message| message.body)
            .collect()
    }

    #[track_caller]
    fn check_look(n_domains: usize, name_len: usize, want_parts: usize) {
        let mut out = Out::new(Vec::new());
        let domain =
            |n: usize| worker::Domain { uuid: n.to_string(), name: "n".repeat(name_len), ..Default::default() };
        out.send_look(1, 3, 7, (0..n_domains).map(domain).collect(), 5).unwrap();
        let parts: Vec<Domains> = received(&out.socket)
            .into_iter()
            .map(|body| if let Body::Domains(part) = body { part } else { panic!("not a look") })
            .collect();
        assert_eq!(parts.len(), want_parts);
        assert_eq!(parts.iter().map(|part| part.domains.len()).sum::<usize>(), n_domains);
        assert!(parts.iter().all(|part| part.look == 7));
        assert_eq!(parts.iter().filter(|part| part.last).count(), 1);
        assert!(parts.last().unwrap().last);
    }

    #[test]
    fn a_look_that_fits_is_one_part() {
        check_look(0, 0, 1);
        check_look(100, 20, 1);
    }

    #[test]
    fn a_look_too_long_for_a_frame_comes_in_parts() {
        check_look(3_000, 1_000, 3);
    }

    #[test]
    fn disks_that_do_not_fit_are_cut() {
        let mut out = Out::new(Vec::new());
        let disk = Disk { target: "t".repeat(1_000), ..Disk::default() };
        out.send(1, 3, Body::Disks(Disks { disks: vec![disk; 1_200], ..Disks::default() })).unwrap();
        let [Body::Disks(sent)] = &received(&out.socket)[..] else { panic!("not one message") };
        assert!((1_000..1_200).contains(&sent.disks.len()), "{}", sent.disks.len());
        assert_eq!(out.take_unsendable(), 0);
    }

    #[test]
    fn what_fits_no_frame_is_counted() {
        let mut out = Out::new(Vec::new());
        let call = "x".repeat(MAX_FRAME);
        out.send(1, 3, Body::Hung(worker::Hung { call, ..Default::default() })).unwrap();
        assert_eq!((out.take_unsendable(), out.take_unsendable()), (1, 0));
    }
}
