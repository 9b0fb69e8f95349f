//! Reading containers' logs back: filtered, from the end, and as they grow.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kontiki_proto::Status;
use kontiki_proto::pb::LogsRequest;
use tokio::sync::mpsc;

use crate::pod::dirs::PodDir;
use crate::pod::model::Attempt;

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(100);
const CHUNK: usize = 32 * 1024;

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub follow: bool,
    pub timestamps: bool,
    pub since: Option<Timestamp>,
    /// `None`: all lines.
    pub tail: Option<usize>,
    /// `None`: no limit.
    pub limit: Option<usize>,
}

impl Options {
    /// # Errors
    /// 400 for a time that is none.
    pub fn of(request: &LogsRequest, now: Timestamp) -> Result<Options, Status> {
        let since = match (request.since_seconds, request.since_time.as_str()) {
            (seconds, "") if seconds > 0 => Some(now - SignedDuration::from_secs(seconds)),
            (_, "") => None,
            (_, text) => Some(
                text.parse()
                    .map_err(|e| Status::bad_request(format!("sinceTime {text:?} is no time: {e}")))?,
            ),
        };
        Ok(Options {
            follow: request.follow,
            timestamps: request.timestamps,
            since,
            tail: usize::try_from(request.tail_lines).ok(),
            limit: usize::try_from(request.limit_bytes).ok().filter(|l| *l > 0),
        })
    }
}

/// The attempt whose log is meant.
///
/// # Errors
/// 400 in upstream's words where there is none.
pub fn attempt(dir: &PodDir, pod: &str, container: &str, previous: bool) -> Result<Attempt, Status> {
    let (last, before) = dir.attempts(container);
    let found = match (previous, last) {
        (false, last) => last,
        // The newest has ended: it is what the status shows as the last state.
        (true, Some(last)) if last.exit.is_some() => Some(last),
        (true, _) => before,
    };
    found.ok_or_else(|| {
        Status::bad_request(if previous {
            format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
        } else {
            format!("container \"{container}\" in pod \"{pod}\" is waiting to start: ContainerCreating")
        })
    })
}

/// One record: the text's end is the line's where `full`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    at: String,
    full: bool,
    text: Vec<u8>,
}

fn parse(line: &[u8]) -> Option<Record> {
    let line = line.strip_suffix(b"\n")?;
    let mut fields = line.splitn(4, |b| *b == b' ');
    let at = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let _stream = fields.next()?;
    let tag = fields.next()?;
    Some(Record { at, full: tag.first() == Some(&b'F'), text: fields.next().unwrap_or_default().to_vec() })
}

/// Sends the log in chunks until its end, or with `follow` until `ended` says that no more will come. Blocks: to be run on
/// a thread of its own. Ends when the receiver is gone.
pub fn send(path: &Path, options: &Options, ended: impl Fn() -> bool, to: &mpsc::Sender<Vec<u8>>) {
    let mut reader = Reader::open(path);
    let mut out =
        Out { options: options.clone(), to, pending: Vec::new(), line_began: true, left: options.limit };
    if let Some(tail) = options.tail {
        let mut last = VecDeque::new();
        let mut lines = 0;
        while let Some(record) = reader.next() {
            lines += usize::from(record.full);
            last.push_back(record);
            while lines > tail {
                if last.pop_front().is_some_and(|r| r.full) {
                    lines -= 1;
                }
            }
        }
        if tail > 0 {
            for record in last {
                if !out.add(&record) {
                    return;
                }
            }
        }
    }
    loop {
        // Asked before reading: what was written before the end is then read.
        let over = !options.follow || ended();
        while let Some(record) = reader.next() {
            if !out.add(&record) {
                return;
            }
        }
        if !out.flush() || over || to.is_closed() {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

struct Out<'a> {
    options: Options,
    to: &'a mpsc::Sender<Vec<u8>>,
    pending: Vec<u8>,
    line_began: bool,
    left: Option<usize>,
}

impl Out<'_> {
    /// False when nothing more is wanted.
    fn add(&mut self, record: &Record) -> bool {
        let early = |since: Timestamp| record.at.parse::<Timestamp>().is_ok_and(|at| at < since);
        if self.options.since.is_some_and(early) {
            return true;
        }
        if self.options.timestamps && self.line_began {
            self.pending.extend_from_slice(record.at.as_bytes());
            self.pending.push(b' ');
        }
        self.pending.extend_from_slice(&record.text);
        if record.full {
            self.pending.push(b'\n');
        }
        self.line_began = record.full;
        if self.left.is_some_and(|left| self.pending.len() >= left) || self.pending.len() >= CHUNK {
            return self.flush();
        }
        true
    }

    fn flush(&mut self) -> bool {
        let mut chunk = std::mem::take(&mut self.pending);
        if let Some(left) = &mut self.left {
            chunk.truncate(*left);
            *left -= chunk.len();
        }
        let sent = chunk.is_empty() || self.to.blocking_send(chunk).is_ok();
        sent && self.left != Some(0)
    }
}

/// Reads records in order, over the rotation of the file.
struct Reader {
    path: PathBuf,
    files: VecDeque<BufReader<File>>,
    inode: u64,
    line: Vec<u8>,
}

impl Reader {
    fn open(path: &Path) -> Reader {
        let mut older = path.as_os_str().to_os_string();
        older.push(".1");
        let mut reader = Reader { path: path.into(), files: VecDeque::new(), inode: 0, line: Vec::new() };
        reader.files.extend(File::open(older).ok().map(BufReader::new));
        reader.open_newest();
        reader
    }

    /// A rotated log has a new file under the old name.
    fn open_newest(&mut self) -> bool {
        let Ok(file) = File::open(&self.path) else { return false };
        let inode = file.metadata().map_or(0, |m| m.ino());
        if inode == self.inode {
            return false;
        }
        self.inode = inode;
        self.files.push_back(BufReader::new(file));
        true
    }

    fn next(&mut self) -> Option<Record> {
        loop {
            let file = self.files.front_mut()?;
            let read = file.read_until(b'\n', &mut self.line).unwrap_or(0);
            if read > 0 && self.line.ends_with(b"\n") {
                let record = parse(&self.line);
                self.line.clear();
                match record {
                    Some(record) => return Some(record),
                    // A record that a full disk has cut off.
                    None => continue,
                }
            }
            if self.files.len() == 1 && !self.open_newest() {
                return None;
            }
            // Another file follows: this one is complete.
            self.files.pop_front();
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.0Z stdout F one\n2026-01-01T00:00:01.0Z stderr P tw\n\
                       2026-01-01T00:00:01.5Z stderr F o\n2026-01-01T00:00:02.0Z stdout F three\n";

    fn read(options: &Options) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        std::fs::write(dir.path().join("0.log.1"), "2025-12-31T00:00:00.0Z stdout F zero\n").unwrap();
        let (to, mut from) = mpsc::channel(64);
        send(&path, options, || true, &to);
        drop(to);
        let mut text = Vec::new();
        while let Some(part) = from.blocking_recv() {
            text.extend(part);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_log_is_read_with_its_older_part() {
        assert_eq!(read(&Options::default()), "zero\none\ntwo\nthree\n");
    }

    #[test]
    fn parts_of_it_can_be_asked_for() {
        let tail = |n| Options { tail: Some(n), ..Options::default() };
        assert_eq!(read(&tail(2)), "two\nthree\n");
        assert_eq!(read(&tail(0)), "");
        assert_eq!(read(&tail(100)), "zero\none\ntwo\nthree\n");
        assert_eq!(read(&Options { limit: Some(7), ..Options::default() }), "zero\non");
        let since = Options { since: Some("2026-01-01T00:00:01Z".parse().unwrap()), ..Options::default() };
        assert_eq!(read(&since), "two\nthree\n");
        assert!(read(&Options { timestamps: true, ..since }).starts_with("2026-01-01T00:00:01.0Z two\n2026"));
    }

    #[test]
    fn a_followed_log_is_read_over_its_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "T stdout F a\n").unwrap();
        let mut reader = Reader::open(&path);
        assert_eq!(reader.next().unwrap().text, b"a");
        assert_eq!(reader.next(), None);
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, "T stdout F b\n").unwrap();
        assert_eq!(reader.next().unwrap().text, b"b");
        assert_eq!(reader.next(), None);
    }
}
