//! `ps` in any of its formats: columns are found by the words of the header.
//!
//! A thread's name may contain spaces (`CPU 0/KVM`), so columns of text are cut where the header's words begin, and by words only
//! where a wide number has pushed a row out of line. Source: procps-ng `ps(1)`.

use crate::process::TaskState;

/// A process, or one of its threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRow {
    /// Process id.
    pub pid: u32,
    /// Thread id, where threads are listed.
    pub tid: Option<u32>,
    /// Parent.
    pub ppid: Option<u32>,
    /// What it does. `None` where the format has no such column.
    pub state: Option<TaskState>,
    /// Kernel function it waits in; may be cut by the column's width. `None` for a running one, or without the column.
    pub wchan: Option<String>,
    /// Name of the thread or program.
    pub comm: String,
    /// Command line; empty for kernel threads and what is dead.
    pub args: String,
}

/// A whole output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskTable {
    /// The rows, in their order.
    pub rows: Vec<TaskRow>,
    /// Whether threads have rows of their own.
    pub has_threads: bool,
    /// Whether it lists every process: pid 1 and a kernel thread or 20 others are there.
    pub is_complete: bool,
    /// Lines that are no rows.
    pub n_skipped: usize,
}

impl TaskRow {
    /// Whether this row stands for the process: its leader, or the only row it has.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.tid.is_none_or(|tid| tid == self.pid)
    }

    /// The word after an option of the command line.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        let mut words = self.args.split_whitespace();
        words.by_ref().find(|word| *word == name)?;
        words.next()
    }

    /// File name of the program as the command line has it.
    #[must_use]
    pub fn program(&self) -> &str {
        let first = self.args.split_whitespace().next().unwrap_or(&self.comm);
        first.rsplit('/').next().unwrap_or(first)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Pid,
    Tid,
    Ppid,
    State,
    Wchan,
    Comm,
    Args,
    Other,
}

/// The table; `None` when there is no header with a pid and a command.
#[must_use]
pub fn parse_ps(text: &str) -> Option<TaskTable> {
    let mut lines = text.lines();
    let (header, columns) = lines.by_ref().take(20).find_map(|line| Some((line, header(line)?)))?;
    let has_threads = columns.iter().any(|(column, _)| *column == Column::Tid);
    let mut table = TaskTable { has_threads, ..TaskTable::default() };
    for line in lines.filter(|line| !line.trim().is_empty()) {
        match row(line, header, &columns) {
            Some(row) => table.rows.push(row),
            None => table.n_skipped += 1,
        }
    }
    let has = |pid: u32| table.rows.iter().any(|row| row.pid == pid);
    table.is_complete = has(1) && (has(2) || table.rows.iter().filter(|row| row.is_leader()).count() > 20);
    (!table.rows.is_empty()).then_some(table)
}

/// The columns with the offset at which their word begins.
fn header(line: &str) -> Option<Vec<(Column, usize)>> {
    let mut columns = Vec::new();
    let mut from = 0;
    for word in line.split_whitespace() {
        let offset = from + line.get(from..)?.find(word)?;
        from = offset + word.len();
        let column = match word {
            "PID" => Column::Pid,
            "TID" | "LWP" | "SPID" => Column::Tid,
            "PPID" => Column::Ppid,
            "STAT" | "S" => Column::State,
            "WCHAN" => Column::Wchan,
            "COMM" | "COMMAND" | "CMD" | "ARGS" | "UCMD" => Column::Comm,
            _ => Column::Other,
        };
        columns.push((column, offset));
    }
    let has = |wanted| columns.iter().any(|(column, _)| *column == wanted);
    if !has(Column::Pid) || !has(Column::Comm) {
        return None;
    }
    // The last column of a name is the whole command line, unless it is the only one and `ps -o comm` asked for it: then the
    // two are the same.
    if let Some(last) = columns.last_mut().filter(|(column, _)| *column == Column::Comm) {
        last.0 = Column::Args;
    }
    Some(columns)
}

fn row(line: &str, header: &str, columns: &[(Column, usize)]) -> Option<TaskRow> {
    let fields = fields(line, header, columns)?;
    let get = |wanted| fields.iter().find(|(column, _)| *column == wanted).map(|(_, text)| *text);
    let state = get(Column::State).and_then(|text| text.chars().next()).filter(char::is_ascii_alphabetic);
    let args = get(Column::Args).unwrap_or_default();
    // `ps f` draws a tree before the command.
    let args = args.trim_start_matches(['|', '\\', '_', ' ', '`', '-', '+']).trim_end();
    let is_defunct = args.ends_with("<defunct>");
    let bracketed = args.strip_prefix('[').and_then(|name| name.split(']').next());
    let comm = match get(Column::Comm).map(str::trim).filter(|comm| !comm.is_empty()) {
        Some(comm) => comm,
        // The kernel keeps 15 bytes of a name: a short text may be `ps -o comm`.
        None if args.len() <= 15 && !args.starts_with('/') && bracketed.is_none() => args,
        None => bracketed.unwrap_or_else(|| {
            let first = args.split_whitespace().next().unwrap_or_default();
            first.rsplit('/').next().unwrap_or(first)
        }),
    };
    Some(TaskRow {
        pid: get(Column::Pid)?.parse().ok()?,
        tid: get(Column::Tid).and_then(|tid| tid.parse().ok()),
        ppid: get(Column::Ppid).and_then(|ppid| ppid.parse().ok()),
        state: state.map(TaskState::from_letter).or_else(|| is_defunct.then_some(TaskState::Zombie)),
        wchan: get(Column::Wchan).filter(|wchan| !matches!(*wchan, "-" | "?" | "0" | "")).map(str::to_owned),
        comm: comm.trim_end_matches(" <defunct>").to_owned(),
        args: if bracketed.is_some() { String::new() } else { args.to_owned() },
    })
}

fn fields<'a>(line: &'a str, header: &str, columns: &[(Column, usize)]) -> Option<Vec<(Column, &'a str)>> {
    let mut fields = Vec::with_capacity(columns.len());
    let mut rest = line;
    for (index, (column, offset)) in columns.iter().enumerate() {
        rest = rest.trim_start();
        if index + 1 == columns.len() {
            fields.push((*column, rest));
            break;
        }
        let at = line.len() - rest.len();
        let next = columns[index + 1].1;
        // A name with spaces: up to where the next column begins, if the row keeps to the header.
        let fits = *column == Column::Comm
            && at <= *offset + 1
            && next < header.len()
            && line.is_char_boundary(next.min(line.len()))
            && next <= line.len()
            && line.as_bytes().get(next - 1) == Some(&b' ');
        let (field, left) = if fits {
            let (field, left) = line.split_at(next);
            (field.get(at..)?.trim_end(), left)
        } else {
            rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()))
        };
        fields.push((*column, field));
        rest = left;
    }
    Some(fields)
}
