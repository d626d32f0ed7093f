//! The structures of a journal file, as systemd writes them, with every number checked before it is used.
//!
//! Source: systemd `docs/JOURNAL_FILE_FORMAT.md`, `src/libsystemd/sd-journal/journal-def.h` (versions 187 to 257): regular files
//! and compact ones (252). All numbers are little endian; objects begin at multiples of 8.

use std::io::{self, Read as _};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::bytes::{ReadAt, Window};

/// Bytes of the header that every version has.
const MIN_HEADER_BYTES: usize = 208;
/// What is read of it.
const HEADER_BYTES: usize = 272;
const SIGNATURE: &[u8] = b"LPKSHHRH";
const OBJECT_HEADER_BYTES: u64 = 16;
/// Longest payload that is taken; more of it is left out.
pub(super) const MAX_PAYLOAD_BYTES: usize = 64 * 1024;
/// Most memory a compressed payload may ask for to be unpacked.
const MAX_ZSTD_WINDOW_BYTES: u64 = 1024 * 1024;

const COMPRESSED_XZ: u32 = 1;
const COMPRESSED_LZ4: u32 = 2;
const KEYED_HASH: u32 = 4;
const COMPRESSED_ZSTD: u32 = 8;
const COMPACT: u32 = 16;
const KNOWN_FLAGS: u32 = COMPRESSED_XZ | COMPRESSED_LZ4 | KEYED_HASH | COMPRESSED_ZSTD | COMPACT;

/// Types of objects that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ObjectType {
    Data = 1,
    Field = 2,
    Entry = 3,
    EntryArray = 6,
}

/// The file's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) is_compact: bool,
    pub(super) file_id: [u8; 16],
    pub(super) header_bytes: u64,
    pub(super) field_table_offset: u64,
    pub(super) field_table_bytes: u64,
    pub(super) n_entries: u64,
    pub(super) tail_realtime_usec: u64,
    pub(super) head_realtime_usec: u64,
}

/// Content that no version of journald is known to write.
pub(super) fn malformed(what: &str, offset: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} at byte {offset}"))
}

/// What was asked for, all of it.
fn whole(bytes: &[u8], len: usize, offset: u64) -> io::Result<&[u8]> {
    if bytes.len() < len { Err(malformed("the end of the file inside an object", offset)) } else { Ok(bytes) }
}

/// Checks an object's header: its type and that it lies within the file. Its size with its header.
fn check_object(head: &[u8], offset: u64, size: u64, want: ObjectType, min_bytes: u64) -> io::Result<u64> {
    let object_bytes = u64_at(head, 8).unwrap_or(0);
    if head.first() != Some(&(want as u8)) {
        return Err(malformed("an object of another type", offset));
    }
    if object_bytes < min_bytes || offset.checked_add(object_bytes).is_none_or(|end| end > size) {
        return Err(malformed("an object of a wrong size", offset));
    }
    Ok(object_bytes)
}

fn item_offset(object: u64, head_bytes: u64, index: u64, item_bytes: u64) -> io::Result<u64> {
    let at = index.checked_mul(item_bytes).and_then(|bytes| object.checked_add(head_bytes)?.checked_add(bytes));
    at.ok_or_else(|| malformed("an item outside of the file", object))
}

/// An offset of 4 bytes (compact) or 8.
fn offset_of(bytes: &[u8]) -> u64 {
    u64_at(bytes, 0).or_else(|| u32_at(bytes, 0).map(u64::from)).unwrap_or(0)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn id_at(bytes: &[u8], at: usize) -> Option<[u8; 16]> {
    bytes.get(at..at + 16)?.try_into().ok()
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> io::Result<Self> {
        if bytes.len() < MIN_HEADER_BYTES || !bytes.starts_with(SIGNATURE) {
            return Err(malformed("no header of a journal", 0));
        }
        let parsed = || {
            let flags = u32_at(bytes, 12)?;
            let header = Self {
                is_compact: flags & COMPACT != 0,
                file_id: id_at(bytes, 24)?,
                header_bytes: u64_at(bytes, 88)?,
                field_table_offset: u64_at(bytes, 120)?,
                field_table_bytes: u64_at(bytes, 128)?,
                n_entries: u64_at(bytes, 152)?,
                head_realtime_usec: u64_at(bytes, 184)?,
                tail_realtime_usec: u64_at(bytes, 192)?,
            };
            Some((flags, header))
        };
        let (flags, header) = parsed().ok_or_else(|| malformed("a short header", 0))?;
        if flags & !KNOWN_FLAGS != 0 {
            let what = format!("written by a newer systemd (incompatible flags {flags:#x})");
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        if header.header_bytes < MIN_HEADER_BYTES as u64 {
            return Err(malformed("a short header", 88));
        }
        Ok(header)
    }
}

/// A DATA object without its payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    pub(super) next_field_offset: u64,
    pub(super) entry_offset: u64,
    pub(super) entry_array_offset: u64,
    pub(super) n_entries: u64,
}

/// A FIELD object without its payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) next_hash_offset: u64,
    pub(super) head_data_offset: u64,
}

/// An ENTRY object without its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) seqnum: u64,
    pub(super) realtime_usec: u64,
    pub(super) monotonic_usec: u64,
    pub(super) boot_id: [u8; 16],
    pub(super) n_items: u64,
}

/// An ENTRY_ARRAY object without its items.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryArray {
    pub(super) next_offset: u64,
    pub(super) n_items: u64,
}

/// A payload as it is taken.
#[derive(Debug)]
pub(super) enum Payload<'w> {
    Bytes(&'w [u8]),
    /// Compressed with xz or lz4.
    Unreadable,
}

/// What reading needs, kept from one file to the next.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    objects: Window,
    /// Entry arrays lie apart from the entries they name.
    arrays: Window,
    unpack: Unpack,
}

/// Unpacks payloads; its buffers are kept from one to the next.
#[derive(Default)]
struct Unpack {
    decoder: Option<Box<FrameDecoder>>,
    packed: Vec<u8>,
    out: Vec<u8>,
}

impl Unpack {
    fn zstd(&mut self, offset: u64) -> io::Result<&[u8]> {
        let decoder = self.decoder.get_or_insert_with(|| {
            let mut decoder = FrameDecoder::new();
            decoder.set_max_window_size(MAX_ZSTD_WINDOW_BYTES);
            Box::new(decoder)
        });
        let wrong = |_| malformed("a zstd frame that cannot be unpacked", offset);
        self.out.clear();
        let mut stream = StreamingDecoder::new_with_decoder(self.packed.as_slice(), &mut **decoder).map_err(wrong)?;
        let wrong = |_: io::Error| malformed("a zstd frame that cannot be unpacked", offset);
        stream.by_ref().take(MAX_PAYLOAD_BYTES as u64).read_to_end(&mut self.out).map_err(wrong)?;
        Ok(&self.out)
    }
}

/// The objects of one file.
pub(super) struct Objects<'a, S: ?Sized> {
    source: &'a S,
    header: &'a Header,
    size: u64,
    buffers: &'a mut Buffers,
}

impl<'a, S: ReadAt + ?Sized> Objects<'a, S> {
    /// The file's header, read anew; what the buffers had is forgotten.
    pub(super) fn read_header(source: &S, buffers: &mut Buffers) -> io::Result<Header> {
        buffers.objects.forget();
        buffers.arrays.forget();
        Header::parse(buffers.arrays.get(source, 0, HEADER_BYTES)?)
    }

    pub(super) fn new(source: &'a S, header: &'a Header, buffers: &'a mut Buffers) -> io::Result<Self> {
        let size = source.size()?;
        Ok(Self { source, header, size, buffers })
    }

    pub(super) fn header(&self) -> &Header {
        self.header
    }

    /// Whether an object may begin there.
    fn check_offset(&self, offset: u64) -> io::Result<()> {
        let is_well = offset >= self.header.header_bytes
            && offset.is_multiple_of(8)
            && offset.checked_add(OBJECT_HEADER_BYTES).is_some_and(|end| end <= self.size);
        if is_well { Ok(()) } else { Err(malformed("an offset outside of the file", offset)) }
    }

    fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        whole(self.buffers.objects.get(self.source, offset, len)?, len, offset)
    }

    /// Checks an object's header. Its flags, and its size with its header.
    fn object(&mut self, offset: u64, want: ObjectType, min_bytes: u64) -> io::Result<(u8, u64)> {
        self.check_offset(offset)?;
        let head = whole(self.buffers.objects.get(self.source, offset, 16)?, 16, offset)?;
        Ok((head[1], check_object(head, offset, self.size, want, min_bytes)?))
    }

    fn numbers<const N: usize>(&mut self, offset: u64, at: [usize; N]) -> io::Result<[u64; N]> {
        let len = at.into_iter().max().unwrap_or(0) + 8;
        let bytes = self.bytes(offset, len)?;
        Ok(at.map(|at| u64_at(bytes, at).unwrap_or(0)))
    }

    /// Where the payload of a DATA object begins.
    fn data_header_bytes(&self) -> u64 {
        if self.header.is_compact { 72 } else { 64 }
    }

    pub(super) fn data(&mut self, offset: u64) -> io::Result<Data> {
        self.object(offset, ObjectType::Data, self.data_header_bytes())?;
        let [next_field_offset, entry_offset, entry_array_offset, n_entries] =
            self.numbers(offset, [32, 40, 48, 56])?;
        Ok(Data { next_field_offset, entry_offset, entry_array_offset, n_entries })
    }

    /// The payload of a DATA object, at most `max_bytes` of it.
    pub(super) fn payload(&mut self, offset: u64, max_bytes: usize) -> io::Result<Payload<'_>> {
        let head = self.data_header_bytes();
        let (flags, object_bytes) = self.object(offset, ObjectType::Data, head)?;
        let n_bytes = usize::try_from(object_bytes - head).unwrap_or(usize::MAX);
        let at = offset + head;
        if flags & 7 == 0 {
            return self.bytes(at, n_bytes.min(max_bytes)).map(Payload::Bytes);
        }
        match flags & 7 {
            // xz, lz4
            1 | 2 => return Ok(Payload::Unreadable),
            4 => {}
            _ => return Err(malformed("two compressions at once", offset)),
        }
        if n_bytes > MAX_PAYLOAD_BYTES {
            return Err(malformed("a compressed payload that is too large", offset));
        }
        let packed = self.buffers.objects.get(self.source, at, n_bytes)?;
        self.buffers.unpack.packed.clear();
        self.buffers.unpack.packed.extend_from_slice(packed);
        let out = self.buffers.unpack.zstd(offset)?;
        Ok(Payload::Bytes(&out[..out.len().min(max_bytes)]))
    }

    /// A FIELD object, and whether its name is `name`.
    pub(super) fn field(&mut self, offset: u64, name: &[u8]) -> io::Result<(Field, bool)> {
        let (_, object_bytes) = self.object(offset, ObjectType::Field, 40)?;
        let [next_hash_offset, head_data_offset] = self.numbers(offset, [24, 32])?;
        let is_same = object_bytes - 40 == name.len() as u64 && self.bytes(offset + 40, name.len())? == name;
        Ok((Field { next_hash_offset, head_data_offset }, is_same))
    }

    pub(super) fn entry(&mut self, offset: u64) -> io::Result<Entry> {
        let (_, object_bytes) = self.object(offset, ObjectType::Entry, 64)?;
        let bytes = self.bytes(offset, 64)?;
        let entry = || {
            Some(Entry {
                seqnum: u64_at(bytes, 16)?,
                realtime_usec: u64_at(bytes, 24)?,
                monotonic_usec: u64_at(bytes, 32)?,
                boot_id: id_at(bytes, 40)?,
                n_items: 0,
            })
        };
        let entry = entry().ok_or_else(|| malformed("a short entry", offset))?;
        let item_bytes = if self.header.is_compact { 4 } else { 16 };
        Ok(Entry { n_items: (object_bytes - 64) / item_bytes, ..entry })
    }

    pub(super) fn entry_array(&mut self, offset: u64) -> io::Result<EntryArray> {
        self.check_offset(offset)?;
        let head = whole(self.buffers.arrays.get(self.source, offset, 24)?, 24, offset)?;
        let object_bytes = check_object(head, offset, self.size, ObjectType::EntryArray, 24)?;
        let next_offset = u64_at(head, 16).unwrap_or(0);
        // Arrays are only ever appended: what leads back is a loop.
        if next_offset != 0 && next_offset <= offset {
            return Err(malformed("a loop of entry arrays", offset));
        }
        let item_bytes = if self.header.is_compact { 4 } else { 8 };
        Ok(EntryArray { next_offset, n_items: (object_bytes - 24) / item_bytes })
    }

    /// Where the entry is that an array's item names.
    pub(super) fn array_item(&mut self, array: u64, index: u64) -> io::Result<u64> {
        let (item_bytes, n_bytes) = if self.header.is_compact { (4, 4) } else { (8, 8) };
        let at = item_offset(array, 24, index, item_bytes)?;
        let bytes = whole(self.buffers.arrays.get(self.source, at, n_bytes)?, n_bytes, at)?;
        Ok(offset_of(bytes))
    }

    /// Where the DATA of an entry's item is.
    pub(super) fn entry_item(&mut self, entry: u64, index: u64) -> io::Result<u64> {
        let (item_bytes, n_bytes) = if self.header.is_compact { (4, 4) } else { (16, 8) };
        let at = item_offset(entry, 64, index, item_bytes)?;
        self.bytes(at, n_bytes).map(offset_of)
    }

    /// The head of a chain of the field hash table; `None` behind the table.
    pub(super) fn field_bucket(&mut self, index: u64) -> io::Result<Option<u64>> {
        let at = index * 16;
        if at >= self.header.field_table_bytes {
            return Ok(None);
        }
        let Some(offset) = self.header.field_table_offset.checked_add(at) else {
            return Err(malformed("a table outside of the file", self.header.field_table_offset));
        };
        let bytes = self.bytes(offset, 8)?;
        Ok(u64_at(bytes, 0))
    }
}

impl std::fmt::Debug for Unpack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpack").finish_non_exhaustive()
    }
}
