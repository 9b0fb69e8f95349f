//! The part of the kernel's FUSE protocol that this disk speaks: numbers, and bytes in and out.

use super::model::{Attributes, Errno, ROOT};

pub const LOOKUP: u32 = 1;
pub const FORGET: u32 = 2;
pub const GETATTR: u32 = 3;
pub const SETATTR: u32 = 4;
pub const MKNOD: u32 = 8;
pub const MKDIR: u32 = 9;
pub const UNLINK: u32 = 10;
pub const RMDIR: u32 = 11;
pub const RENAME: u32 = 12;
pub const OPEN: u32 = 14;
pub const READ: u32 = 15;
pub const WRITE: u32 = 16;
pub const STATFS: u32 = 17;
pub const RELEASE: u32 = 18;
pub const FSYNC: u32 = 20;
pub const FLUSH: u32 = 25;
pub const INIT: u32 = 26;
pub const OPENDIR: u32 = 27;
pub const READDIR: u32 = 28;
pub const RELEASEDIR: u32 = 29;
pub const FSYNCDIR: u32 = 30;
pub const CREATE: u32 = 35;
pub const INTERRUPT: u32 = 36;
pub const DESTROY: u32 = 38;
pub const BATCH_FORGET: u32 = 42;
pub const FALLOCATE: u32 = 43;
pub const RENAME2: u32 = 45;

/// Largest write the kernel is asked to send.
pub const MAX_WRITE: usize = 1 << 20;
const MAX_PAGES: u16 = 256;
const ASYNC_READ: u32 = 1;
const BIG_WRITES: u32 = 1 << 5;
const PARALLEL_DIROPS: u32 = 1 << 18;
const HAS_MAX_PAGES: u32 = 1 << 22;
/// The kernel keeps no pages: every read and write comes here.
const OPEN_DIRECT: u32 = 1;
/// `SETATTR` changes the length.
pub const SETS_SIZE: u32 = 1 << 3;
/// What precedes every request, in bytes.
const HEAD: usize = 40;

/// One question of the kernel.
pub struct Request {
    pub opcode: u32,
    pub unique: u64,
    pub node: u64,
    body: Vec<u8>,
}

impl Request {
    /// `None` for what is too short to be one.
    pub fn parse(bytes: &[u8]) -> Option<Request> {
        let number = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Request {
            opcode: number(4)?,
            unique: long(8)?,
            node: long(16)?,
            body: bytes.get(HEAD..)?.to_vec(),
        })
    }

    pub fn u32(&self, at: usize) -> Result<u32, Errno> {
        let bytes = self.body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes).ok_or(libc::EINVAL)
    }

    pub fn u64(&self, at: usize) -> Result<u64, Errno> {
        let bytes = self.body.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_ne_bytes).ok_or(libc::EINVAL)
    }

    /// The bytes from `at` on.
    pub fn rest(&self, at: usize) -> Result<&[u8], Errno> {
        self.body.get(at..).ok_or(libc::EINVAL)
    }

    /// A name that ends in a zero byte, and where the next one begins.
    pub fn name(&self, at: usize) -> Result<(&str, usize), Errno> {
        let rest = self.rest(at)?;
        let end = rest.iter().position(|byte| *byte == 0).ok_or(libc::EINVAL)?;
        Ok((std::str::from_utf8(&rest[..end]).map_err(|_| libc::EILSEQ)?, at + end + 1))
    }
}

/// The bytes of an answer, in the kernel's own order.
#[derive(Default)]
pub struct Answer(pub Vec<u8>);

impl Answer {
    pub fn u16(mut self, value: u16) -> Answer {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub fn u32(mut self, value: u32) -> Answer {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Answer {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn attributes(self, of: Attributes) -> Answer {
        let (kind, links) = if of.folder { (libc::S_IFDIR | 0o755, 2) } else { (libc::S_IFREG | 0o644, 1) };
        let times = self.u64(of.ino).u64(of.len).u64(of.len.div_ceil(512)).u64(0).u64(0).u64(0);
        times.u32(0).u32(0).u32(0).u32(kind).u32(links).u32(0).u32(0).u32(0).u32(4096).u32(0)
    }

    /// Attributes that the kernel must ask for again.
    pub fn attr(of: Attributes) -> Answer {
        Answer::default().u64(0).u32(0).u32(0).attributes(of)
    }

    /// A node, by a name that the kernel must ask for again.
    pub fn entry(of: Attributes) -> Answer {
        Answer::default().u64(of.ino).u64(0).u64(0).u64(0).u32(0).u32(0).attributes(of)
    }

    pub fn opened(self, handle: u64) -> Answer {
        self.u64(handle).u32(OPEN_DIRECT).u32(0)
    }

    /// To the kernel's greeting: what this side can do.
    pub fn init(minor: u32, readahead: u32) -> Answer {
        let flags = ASYNC_READ | BIG_WRITES | PARALLEL_DIROPS | HAS_MAX_PAGES;
        let versions = Answer::default().u32(7).u32(minor.min(31)).u32(readahead).u32(flags);
        let sizes = versions.u16(64).u16(48).u32(MAX_WRITE as u32).u32(1).u16(MAX_PAGES).u16(0);
        sizes.u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0)
    }

    pub fn statfs(total: u64, free: u64) -> Answer {
        let blocks =
            Answer::default().u64(total / 4096).u64(free / 4096).u64(free / 4096).u64(1 << 20).u64(1 << 19);
        blocks.u32(4096).u32(255).u32(4096).u32(0).u64(0).u64(0).u64(0)
    }

    /// As many of a folder's names, from `from` on, as have room.
    pub fn names(of: u64, names: &[(String, u64)], from: u64, room: usize) -> Answer {
        let dots = [(".".to_owned(), of), ("..".to_owned(), ROOT)];
        let mut answer = Answer::default();
        for (position, (name, ino)) in dots.iter().chain(names).enumerate().skip(from as usize) {
            let padded = name.len().div_ceil(8) * 8;
            if answer.0.len() + 24 + padded > room {
                break;
            }
            answer = answer.u64(*ino).u64(position as u64 + 1).u32(name.len() as u32).u32(0);
            answer.0.extend_from_slice(name.as_bytes());
            answer.0.resize(answer.0.len() + padded - name.len(), 0);
        }
        answer
    }

    /// The whole message: what is asked for, or why not.
    pub fn message(unique: u64, answer: Result<Answer, Errno>) -> Vec<u8> {
        let (error, bytes) = match answer {
            Ok(answer) => (0, answer.0),
            Err(errno) => (-errno, Vec::new()),
        };
        let mut message = Answer::default().u32(16 + bytes.len() as u32).0;
        message.extend_from_slice(&error.to_ne_bytes());
        message.extend_from_slice(&unique.to_ne_bytes());
        message.extend_from_slice(&bytes);
        message
    }
}
