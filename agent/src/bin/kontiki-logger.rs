//! Writes a container's output to its log file, in the format Kubernetes' log readers expect.
//!
//! containerd's shim starts one for each container (`binary:///…/kontiki-logger?path=…&max=…`), so that logging survives the
//! agent and containerd. File descriptor 3 is the container's standard output, 4 its standard error, and closing 5 says that
//! we are ready. Every line becomes `<time> <stdout|stderr> <F|P> <text>`, where `P` marks a part of a line longer than
//! 16 KiB. At `max` bytes the file becomes `<path>.1` and a new one is begun.
//!
//! **Invariant:** a container never blocks on its log: what cannot be written (a full disk) is dropped.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Longest text of one record.
const LINE: usize = 16 * 1024;

struct Log {
    path: PathBuf,
    max: u64,
    file: Option<File>,
    size: u64,
}

impl Log {
    fn open(path: PathBuf, max: u64) -> Log {
        let mut log = Log { path, max, file: None, size: 0 };
        log.reopen();
        log
    }

    fn reopen(&mut self) {
        self.file = OpenOptions::new().create(true).append(true).open(&self.path).ok();
        self.size = self.file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
    }

    fn write(&mut self, records: &[u8]) {
        if self.max > 0 && self.size > 0 && self.size + records.len() as u64 > self.max {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            // Where the rename fails the old file goes on growing, which is better than losing lines.
            let _ = std::fs::rename(&self.path, old);
            self.reopen();
        }
        if self.file.is_none() {
            self.reopen();
        }
        let Some(file) = &mut self.file else { return };
        match file.write_all(records) {
            Ok(()) => self.size += records.len() as u64,
            // A record may be half written; the next begins on a line of its own.
            Err(_) => {
                let _ = file.write_all(b"\n");
            }
        }
    }
}

/// Nanoseconds since 1970 as RFC 3339 in UTC.
fn rfc3339(nanos: u128) -> String {
    let (seconds, fraction) = ((nanos / 1_000_000_000) as i64, (nanos % 1_000_000_000) as u32);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a civil date, counted in 400-year eras that begin on 1 March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:09}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

fn now() -> String {
    rfc3339(std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos()))
}

/// Appends the records of all whole lines in `pending`, and of parts of overlong ones; at the end, of the rest too.
fn records(pending: &mut Vec<u8>, stream: &str, at: &str, end: bool, out: &mut Vec<u8>) {
    let mut done = 0;
    loop {
        let rest = &pending[done..];
        let (text, tag, used) = match rest.iter().take(LINE + 1).position(|b| *b == b'\n') {
            Some(newline) => (&rest[..newline], 'F', newline + 1),
            None if rest.len() >= LINE => (&rest[..LINE], 'P', LINE),
            None if end && !rest.is_empty() => (rest, 'P', rest.len()),
            None => break,
        };
        out.extend_from_slice(format!("{at} {stream} {tag} ").as_bytes());
        out.extend_from_slice(text);
        out.push(b'\n');
        done += used;
    }
    pending.drain(..done);
}

fn copy(mut from: File, stream: &'static str, log: &Mutex<Log>) {
    let mut buffer = vec![0u8; 64 * 1024];
    let (mut pending, mut out) = (Vec::new(), Vec::new());
    loop {
        let read = match from.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            // The other end of a terminal closes with an error.
            Err(_) => 0,
        };
        pending.extend_from_slice(&buffer[..read]);
        out.clear();
        records(&mut pending, stream, &now(), read == 0, &mut out);
        if !out.is_empty() {
            let mut log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            log.write(&out);
        }
        if read == 0 {
            return;
        }
    }
}

fn main() {
    // SAFETY: signals are only ignored, no handler runs.
    unsafe {
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
    }
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let argument =
        |key: &str| arguments.chunks(2).find(|pair| pair[0] == key).and_then(|pair| pair.get(1)).cloned();
    let path = argument("path").map(PathBuf::from);
    let max = argument("max").and_then(|m| m.parse().ok()).unwrap_or(10 << 20);
    // SAFETY: the shim hands these descriptors over; nothing else in this process owns them.
    let (stdout, stderr) = unsafe { (File::from_raw_fd(3), File::from_raw_fd(4)) };
    let Some(path) = path else {
        eprintln!("kontiki-logger is started by containerd: path and max are its arguments");
        std::process::exit(2);
    };
    let log = Arc::new(Mutex::new(Log::open(path, max)));
    // SAFETY: as above; dropping it is the sign that we are ready.
    drop(unsafe { File::from_raw_fd(5) });
    let errors = log.clone();
    let thread = std::thread::spawn(move || copy(stderr, "stderr", &errors));
    copy(stdout, "stdout", &log);
    // The thread can only have panicked; its stream is lost then, and ours is written.
    let _ = thread.join();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[&[u8]], expected: &str) {
        let (mut pending, mut out) = (Vec::new(), Vec::new());
        for chunk in chunks {
            pending.extend_from_slice(chunk);
            records(&mut pending, "stdout", "T", false, &mut out);
        }
        records(&mut pending, "stdout", "T", true, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn lines_are_records_however_they_arrive() {
        check(&[b"one\ntwo\n"], "T stdout F one\nT stdout F two\n");
        check(&[b"o", b"ne\n\nt", b"wo"], "T stdout F one\nT stdout F \nT stdout P two\n");
    }

    #[test]
    fn a_long_line_is_cut_into_parts() {
        let long = vec![b'x'; LINE + 3];
        let part = "x".repeat(LINE);
        check(&[&long, b"\n"], &format!("T stdout P {part}\nT stdout F xxx\n"));
    }

    #[test]
    fn dates_are_civil() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(1_709_210_096_000_000_007), "2024-02-29T12:34:56.000000007Z");
    }
}
