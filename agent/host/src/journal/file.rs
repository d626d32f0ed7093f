//! One journal file, read forward for the units or identifiers that are wanted.
//!
//! journald keeps, for each `_SYSTEMD_UNIT=…` that it has seen, the list of its entries, and so for each field. So what others
//! write costs nothing: the DATA objects of the wanted values are found by the chain of their field (new ones stand at its
//! beginning, no hash is computed), and of each only what was added to its list is read. Entries of several come in the file's order.

use std::collections::HashMap;
use std::io;

use super::bytes::ReadAt;
use super::format::{Data, Entry, Header, MAX_PAYLOAD_BYTES, Objects, Payload, malformed};
use super::{JournalEntry, JournalStart};

/// The fields that name a unit: of the process that wrote, and of the unit that systemd writes about.
pub(super) const UNIT_FIELDS: &[&[u8]] = &[b"_SYSTEMD_UNIT", ABOUT_UNIT];
/// The field that systemd sets when it writes about a unit.
const ABOUT_UNIT: &[u8] = b"UNIT";
/// The field that programs leave to be their name.
pub(super) const IDENTIFIER_FIELDS: &[&[u8]] = &[b"SYSLOG_IDENTIFIER"];
/// Values of one field that are looked at: a node has hundreds of units.
const MAX_VALUES: usize = 65_536;
/// Objects in one chain of the field table.
const MAX_CHAIN: usize = 1_024;
/// Items of an entry that are looked at: journald writes some 20 to 30.
const MAX_ITEMS: u64 = 256;
/// DATA objects whose meaning is remembered.
const MAX_KNOWN: usize = 1_024;
/// How often a broken chain is tried again: it may only have been read while it was written.
const MAX_FAILURES: u8 = 3;
/// Longest value of a field other than the message.
const MAX_VALUE_BYTES: usize = 256;

/// What is asked of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// In which fields they stand.
    pub(super) fields: &'static [&'static [u8]],
    /// Values of these: units, or identifiers.
    pub(super) names: &'a [String],
    pub(super) start: &'a JournalStart,
}

/// What reading one file gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) n_entries: u64,
    /// Messages compressed with xz or lz4.
    pub(super) n_unreadable: u64,
    /// Objects that are not as systemd writes them.
    pub(super) n_malformed: u64,
}

/// How far a file has been read. Holds no descriptor.
#[derive(Debug)]
pub(super) struct Following {
    /// Entries of the file when it was last read to its end.
    n_entries: u64,
    /// One for each field that is wanted.
    fields: Vec<FieldChain>,
    lists: Vec<List>,
    known: HashMap<u64, Known>,
}

#[derive(Clone, Copy, Debug, Default)]
struct FieldChain {
    /// The FIELD object; 0 while there is none.
    offset: u64,
    /// The beginning of its chain when it was last walked.
    head: u64,
    n_failures: u8,
}

/// The entries of one value of a wanted field.
#[derive(Debug)]
struct List {
    data_offset: u64,
    name_idx: usize,
    is_about: bool,
    /// Entries that were handed out or passed over.
    n_given: u64,
    /// The array that has the next entry, and how many entries are before its first; 0 before the first array.
    array: u64,
    array_first: u64,
    /// Something of its list is broken; what was read before counts.
    is_broken: bool,
}

/// What a DATA object is, so that one that many entries share is read once.
#[derive(Clone, Debug)]
enum Known {
    Ignored,
    Priority(u8),
    Identifier(Box<str>),
    Pid(u32),
}

impl Following {
    pub(super) fn new() -> Self {
        Self { n_entries: 0, fields: Vec::new(), lists: Vec::new(), known: HashMap::new() }
    }

    /// Whether the file has nothing new since it was read to its end.
    pub(super) fn is_drained(&self, header: &Header) -> bool {
        self.n_entries == header.n_entries
    }

    /// Hands out what is new, at most `budget` entries, which it takes from it. What is broken is counted and left out.
    pub(super) fn read<S: ReadAt + ?Sized>(
        &mut self,
        objects: &mut Objects<'_, S>,
        wanted: &Wanted<'_>,
        budget: &mut usize,
        each: &mut dyn FnMut(&JournalEntry<'_>),
    ) -> Counts {
        let mut counts = Counts::default();
        self.fields.resize_with(wanted.fields.len(), FieldChain::default);
        for field in 0..wanted.fields.len() {
            if self.fields[field].n_failures < MAX_FAILURES && self.find_lists(objects, field, wanted).is_err() {
                self.fields[field].n_failures += 1;
                counts.n_malformed += 1;
            }
        }
        // The next entry of each list, and how many it has now.
        let mut next: Vec<(u64, Data)> = Vec::with_capacity(self.lists.len());
        for list in &mut self.lists {
            let found = objects.data(list.data_offset).and_then(|data| Ok((list.next(objects, &data)?, data)));
            next.push(list.check(found, &mut counts));
        }
        loop {
            let first =
                next.iter().enumerate().filter(|(_, (offset, _))| *offset != 0).min_by_key(|(_, (offset, _))| *offset);
            let Some((index, (offset, data))) = first.map(|(index, next)| (index, *next)) else { break };
            if *budget == 0 {
                return counts;
            }
            *budget -= 1;
            let list = &mut self.lists[index];
            list.n_given += 1;
            counts.n_entries += 1;
            let (name_idx, is_about) = (list.name_idx, list.is_about);
            let found = list.next(objects, &data).map(|offset| (offset, data));
            next[index] = list.check(found, &mut counts);
            // One that names a unit twice is one.
            for (other, (same, data)) in next.iter_mut().enumerate().filter(|(_, (same, _))| *same == offset) {
                let list = &mut self.lists[other];
                list.n_given += 1;
                let found = list.next(objects, data).map(|offset| (offset, *data));
                (*same, *data) = list.check(found, &mut counts);
            }
            if self.give(objects, offset, (name_idx, is_about), &mut counts, each).is_err() {
                counts.n_malformed += 1;
            }
        }
        self.n_entries = objects.header().n_entries;
        counts
    }

    /// Finds wanted names that were not there before.
    fn find_lists<S: ReadAt + ?Sized>(
        &mut self,
        objects: &mut Objects<'_, S>,
        field: usize,
        wanted: &Wanted<'_>,
    ) -> io::Result<()> {
        if self.fields[field].offset == 0 {
            self.fields[field].offset = find_field(objects, wanted.fields[field])?;
        }
        let FieldChain { offset, head: seen, .. } = self.fields[field];
        if offset == 0 {
            return Ok(());
        }
        let (field_object, is_same) = objects.field(offset, wanted.fields[field])?;
        if !is_same {
            return Err(malformed("another field than before", offset));
        }
        let head = field_object.head_data_offset;
        let mut at = head;
        for _ in 0..MAX_VALUES {
            if at == 0 || at == seen {
                break;
            }
            let data = objects.data(at)?;
            let name_idx = match objects.payload(at, MAX_VALUE_BYTES)? {
                Payload::Bytes(bytes) => {
                    let name = bytes.get(wanted.fields[field].len() + 1..).unwrap_or_default();
                    wanted.names.iter().position(|wanted| wanted.as_bytes() == name)
                }
                Payload::Unreadable => None,
            };
            if let Some(name_idx) = name_idx
                && self.lists.iter().all(|list| list.data_offset != at)
            {
                let mut list = List {
                    data_offset: at,
                    name_idx,
                    is_about: wanted.fields[field] == ABOUT_UNIT,
                    n_given: 0,
                    array: 0,
                    array_first: 0,
                    is_broken: false,
                };
                list.is_broken = list.seek(objects, &data, wanted.start).is_err();
                self.lists.push(list);
            }
            // New ones are put before the others, and lie behind them in the file.
            if data.next_field_offset >= at {
                return Err(malformed("a loop of a field's data", at));
            }
            at = data.next_field_offset;
        }
        self.fields[field].head = head;
        Ok(())
    }

    fn give<S: ReadAt + ?Sized>(
        &mut self,
        objects: &mut Objects<'_, S>,
        offset: u64,
        (name_idx, is_about): (usize, bool),
        counts: &mut Counts,
        each: &mut dyn FnMut(&JournalEntry<'_>),
    ) -> io::Result<()> {
        let entry = objects.entry(offset)?;
        let mut given = JournalEntry {
            realtime_usec: signed(entry.realtime_usec),
            monotonic_usec: entry.monotonic_usec,
            seqnum: entry.seqnum,
            boot_id: entry.boot_id,
            name_idx,
            is_about,
            priority: None,
            identifier: None,
            pid: None,
            message: &[],
        };
        let (mut message_at, mut identifier_at) = (None, None);
        for index in 0..entry.n_items.min(MAX_ITEMS) {
            let item = objects.entry_item(offset, index)?;
            if item == 0 {
                continue;
            }
            if !self.known.contains_key(&item) {
                match learn(objects, item)? {
                    Learnt::Message => {
                        message_at = Some(item);
                        continue;
                    }
                    Learnt::Unreadable => {
                        counts.n_unreadable += 1;
                        continue;
                    }
                    Learnt::Known(known) => {
                        if self.known.len() >= MAX_KNOWN {
                            self.known.clear();
                        }
                        self.known.insert(item, known);
                    }
                }
            }
            match self.known.get(&item) {
                Some(Known::Priority(priority)) => given.priority = Some(*priority),
                Some(Known::Pid(pid)) => given.pid = Some(*pid),
                Some(Known::Identifier(_)) => identifier_at = Some(item),
                Some(Known::Ignored) | None => {}
            }
        }
        given.identifier = identifier_at.and_then(|item| match self.known.get(&item) {
            Some(Known::Identifier(name)) => Some(&**name),
            _ => None,
        });
        let Some(message_at) = message_at else { return Ok(()) };
        if let Payload::Bytes(bytes) = objects.payload(message_at, MAX_PAYLOAD_BYTES)? {
            each(&JournalEntry { message: bytes.get(MESSAGE.len()..).unwrap_or_default(), ..given });
        }
        Ok(())
    }
}

impl List {
    /// Where its next entry is; 0 when all were given.
    fn next<S: ReadAt + ?Sized>(&mut self, objects: &mut Objects<'_, S>, data: &Data) -> io::Result<u64> {
        if self.is_broken || self.n_given >= data.n_entries {
            return Ok(0);
        }
        if self.n_given == 0 {
            return Ok(data.entry_offset);
        }
        if self.array == 0 {
            (self.array, self.array_first) = (data.entry_array_offset, 1);
        }
        loop {
            let array = objects.entry_array(self.array)?;
            let index = self.n_given.saturating_sub(self.array_first);
            if index < array.n_items {
                return match objects.array_item(self.array, index)? {
                    0 => Err(malformed("an entry that is counted and not there", self.array)),
                    offset => Ok(offset),
                };
            }
            self.array_first += array.n_items;
            self.array = array.next_offset;
        }
    }

    fn check(&mut self, found: io::Result<(u64, Data)>, counts: &mut Counts) -> (u64, Data) {
        let none = Data { next_field_offset: 0, entry_offset: 0, entry_array_offset: 0, n_entries: 0 };
        found.unwrap_or_else(|_| {
            self.is_broken = true;
            counts.n_malformed += 1;
            (0, none)
        })
    }

    /// Passes over the entries that are before `start`: whole arrays at once, then by halves.
    fn seek<S: ReadAt + ?Sized>(
        &mut self,
        objects: &mut Objects<'_, S>,
        data: &Data,
        start: &JournalStart,
    ) -> io::Result<()> {
        if data.n_entries == 0 || !is_before(&objects.entry(data.entry_offset)?, start) {
            return Ok(());
        }
        self.n_given = 1;
        let (mut array_at, mut first) = (data.entry_array_offset, 1);
        while array_at != 0 && first < data.n_entries {
            let array = objects.entry_array(array_at)?;
            let n_used = array.n_items.min(data.n_entries - first);
            (self.array, self.array_first) = (array_at, first);
            let (mut low, mut high) = (0, n_used);
            // Most often all of an array is old.
            let mut middle = n_used.saturating_sub(1);
            while low < high {
                let offset = objects.array_item(array_at, middle)?;
                if is_before(&objects.entry(offset)?, start) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
                middle = low + (high - low) / 2;
            }
            self.n_given = first + low;
            if low < n_used {
                return Ok(());
            }
            first += array.n_items;
            array_at = array.next_offset;
        }
        Ok(())
    }
}

fn signed(usec: u64) -> i64 {
    i64::try_from(usec).unwrap_or(i64::MAX)
}

/// Within a boot the monotonic clock decides, which nobody sets.
fn is_before(entry: &Entry, start: &JournalStart) -> bool {
    match start {
        JournalStart::Since(usec) => signed(entry.realtime_usec) < *usec,
        JournalStart::After(position) if entry.boot_id == position.boot_id => {
            (entry.monotonic_usec, entry.seqnum) <= (position.monotonic_usec, position.seqnum)
        }
        JournalStart::After(position) => signed(entry.realtime_usec) <= position.realtime_usec,
    }
}

/// The FIELD object of a name; 0 if no entry has it yet.
fn find_field<S: ReadAt + ?Sized>(objects: &mut Objects<'_, S>, name: &[u8]) -> io::Result<u64> {
    // journald makes 1023 chains.
    for bucket in 0..65_536 {
        let Some(mut at) = objects.field_bucket(bucket)? else { break };
        for _ in 0..MAX_CHAIN {
            if at == 0 {
                break;
            }
            let (field, is_same) = objects.field(at, name)?;
            if is_same {
                return Ok(at);
            }
            if field.next_hash_offset != 0 && field.next_hash_offset <= at {
                return Err(malformed("a loop of fields", at));
            }
            at = field.next_hash_offset;
        }
    }
    Ok(0)
}

const MESSAGE: &[u8] = b"MESSAGE=";

enum Learnt {
    Message,
    Known(Known),
    Unreadable,
}

fn learn<S: ReadAt + ?Sized>(objects: &mut Objects<'_, S>, item: u64) -> io::Result<Learnt> {
    let bytes = match objects.payload(item, MAX_VALUE_BYTES)? {
        Payload::Bytes(bytes) => bytes,
        // Only long values are compressed, and of those a message is the one that nearly always is.
        Payload::Unreadable => return Ok(Learnt::Unreadable),
    };
    if bytes.starts_with(MESSAGE) {
        return Ok(Learnt::Message);
    }
    let text_of = |name: &str| std::str::from_utf8(bytes.strip_prefix(name.as_bytes())?).ok();
    let known = text_of("PRIORITY=")
        .and_then(|text| text.parse().ok().filter(|priority| *priority < 8).map(Known::Priority))
        .or_else(|| text_of("SYSLOG_IDENTIFIER=").map(|text| Known::Identifier(text.into())))
        .or_else(|| text_of("_PID=").and_then(|text| text.parse().ok()).map(Known::Pid));
    Ok(Learnt::Known(known.unwrap_or(Known::Ignored)))
}
