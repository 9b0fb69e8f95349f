//! Answers the kernel, and fails, slows and stalls on command.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::model::{Errno, Fate, Ino, Loss, Model};
use super::protocol::{self as fuse, Answer, Request};

/// What the disk claims to have room for.
const CAPACITY: u64 = 8 << 30;

/// What is wrong with the disk; nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Syncs fail, and what they should have kept no later sync keeps: what Linux makes of an error at writeback.
    pub failing_syncs: bool,
    pub failing_writes: bool,
    /// No file can be made or grow.
    pub full: bool,
    pub per_write: Duration,
    pub per_sync: Duration,
    /// Writes and syncs wait until this is taken back.
    pub stalled: bool,
}

/// What has been asked of the disk since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub writes: u64,
    pub bytes_written: u64,
    pub syncs: u64,
}

#[derive(Default)]
pub(super) struct State {
    model: Model,
    /// Open files by handle.
    open: HashMap<u64, Ino>,
    next_handle: u64,
    pub faults: Faults,
    pub counts: Counts,
    pub off: bool,
    /// Requests that change something until the power goes, and the seed of what is lost then.
    pub fuse: Option<(u64, u64)>,
    pub loss: Option<Loss>,
    /// Counts up each time what waits is told to give up.
    pub given_up: u64,
}

impl State {
    pub fn cut(&mut self, seed: u64) -> Loss {
        let mut random = StdRng::seed_from_u64(seed);
        let fate = Fate::any(&mut random);
        let loss = self.model.cut(fate, &mut random);
        self.off = true;
        self.open.clear();
        self.fuse = None;
        self.loss = Some(loss);
        loss
    }
}

#[derive(Default)]
pub(super) struct Shared {
    pub state: Mutex<State>,
    /// Told of every change of faults and power.
    pub changed: Condvar,
}

/// Reads requests until the file system is unmounted.
pub(super) fn serve(shared: &Arc<Shared>, device: &Arc<File>) {
    let mut buffer = vec![0; fuse::MAX_WRITE + (64 << 10)];
    loop {
        let read = match (&**device).read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => read,
            // A request that was withdrawn, or a signal.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR | libc::EAGAIN)) => {
                continue;
            }
            Err(_) => return,
        };
        let Some(request) = Request::parse(&buffer[..read]) else { continue };
        if matches!(request.opcode, fuse::FORGET | fuse::BATCH_FORGET | fuse::INTERRUPT) {
            continue;
        }
        let delay = delay(&shared.state.lock().faults, request.opcode);
        let Some(delay) = delay else {
            reply(device, request.unique, answer(shared, &request));
            continue;
        };
        // The callers are threads of a server, so that there are not many.
        let (shared, device) = (Arc::clone(shared), Arc::clone(device));
        std::thread::spawn(move || {
            let answer = if wait(&shared, delay) { answer(&shared, &request) } else { Err(libc::EIO) };
            reply(&device, request.unique, answer);
        });
    }
}

fn reply(device: &File, unique: u64, answer: Result<Answer, Errno>) {
    // The one who asked may be gone.
    let _ = (&mut &*device).write(&Answer::message(unique, answer));
}

fn changes(opcode: u32) -> bool {
    matches!(
        opcode,
        fuse::WRITE
            | fuse::FSYNC
            | fuse::FSYNCDIR
            | fuse::FALLOCATE
            | fuse::CREATE
            | fuse::MKNOD
            | fuse::MKDIR
            | fuse::UNLINK
            | fuse::RMDIR
            | fuse::RENAME
            | fuse::RENAME2
            | fuse::SETATTR
    )
}

fn delay(faults: &Faults, opcode: u32) -> Option<Duration> {
    let delay = match opcode {
        fuse::WRITE | fuse::FALLOCATE => faults.per_write,
        fuse::FSYNC | fuse::FSYNCDIR => faults.per_sync,
        _ => Duration::ZERO,
    };
    (!delay.is_zero() || (faults.stalled && changes(opcode))).then_some(delay)
}

/// Waits out a delay and a stall; false when told to give up.
fn wait(shared: &Shared, delay: Duration) -> bool {
    let until = Instant::now() + delay;
    let mut state = shared.state.lock();
    let given_up = state.given_up;
    loop {
        if state.off || state.given_up != given_up {
            return false;
        }
        let now = Instant::now();
        if !state.faults.stalled && now >= until {
            return true;
        }
        let step = if state.faults.stalled { Duration::from_secs(1) } else { until - now };
        shared.changed.wait_for(&mut state, step);
    }
}

fn answer(shared: &Shared, request: &Request) -> Result<Answer, Errno> {
    let mut state = shared.state.lock();
    if !state.off
        && changes(request.opcode)
        && let Some((left, seed)) = &mut state.fuse
    {
        *left = left.saturating_sub(1);
        if *left == 0 {
            let seed = *seed;
            state.cut(seed);
            shared.changed.notify_all();
        }
    }
    // The kernel's own affairs go on without power; everything else is lost.
    if state.off && !matches!(request.opcode, fuse::INIT | fuse::DESTROY | fuse::RELEASE | fuse::RELEASEDIR) {
        return Err(libc::EIO);
    }
    perform(&mut state, request)
}

fn perform(state: &mut State, request: &Request) -> Result<Answer, Errno> {
    let node = request.node;
    let faults = state.faults.clone();
    let no_room = |grows: bool| if faults.full && grows { Err(libc::ENOSPC) } else { Ok(()) };
    match request.opcode {
        fuse::INIT => Ok(Answer::init(request.u32(4)?, request.u32(8)?)),
        fuse::DESTROY | fuse::FLUSH => Ok(Answer::default()),
        fuse::LOOKUP => {
            let ino = state.model.lookup(node, request.name(0)?.0)?;
            Ok(Answer::entry(state.model.attributes(ino)?))
        }
        fuse::GETATTR => Ok(Answer::attr(state.model.attributes(node)?)),
        fuse::SETATTR => {
            if request.u32(0)? & fuse::SETS_SIZE != 0 {
                let len = request.u64(16)?;
                no_room(len > state.model.attributes(node)?.len)?;
                state.model.set_len(node, len)?;
            }
            Ok(Answer::attr(state.model.attributes(node)?))
        }
        fuse::MKNOD => {
            no_room(true)?;
            let ino = state.model.create(node, request.name(16)?.0)?;
            Ok(Answer::entry(state.model.attributes(ino)?))
        }
        fuse::MKDIR => {
            no_room(true)?;
            let ino = state.model.create_folder(node, request.name(8)?.0)?;
            Ok(Answer::entry(state.model.attributes(ino)?))
        }
        fuse::CREATE => {
            no_room(true)?;
            let ino = state.model.create(node, request.name(16)?.0)?;
            let entry = Answer::entry(state.model.attributes(ino)?);
            Ok(entry.opened(open(state, ino)))
        }
        fuse::UNLINK | fuse::RMDIR => {
            state.model.remove(node, request.name(0)?.0, request.opcode == fuse::RMDIR)?;
            Ok(Answer::default())
        }
        fuse::RENAME | fuse::RENAME2 => {
            let (start, flags) = if request.opcode == fuse::RENAME { (8, 0) } else { (16, request.u32(8)?) };
            if flags & !libc::RENAME_NOREPLACE != 0 {
                return Err(libc::EINVAL);
            }
            let (from, next) = request.name(start)?;
            let (to, _) = request.name(next)?;
            state.model.rename((node, from), (request.u64(0)?, to), flags == 0)?;
            Ok(Answer::default())
        }
        fuse::OPEN | fuse::OPENDIR => {
            let ino = state.model.attributes(node)?.ino;
            Ok(Answer::default().opened(open(state, ino)))
        }
        fuse::READ => Ok(Answer(state.model.read(node, request.u64(8)?, request.u32(16)? as usize)?)),
        fuse::WRITE => {
            let (offset, size) = (request.u64(8)?, request.u32(16)?);
            let bytes = request.rest(40)?;
            state.counts.writes += 1;
            state.counts.bytes_written += bytes.len() as u64;
            if faults.failing_writes {
                return Err(libc::EIO);
            }
            no_room(offset + bytes.len() as u64 > state.model.attributes(node)?.len)?;
            state.model.write(node, offset, bytes)?;
            Ok(Answer::default().u32(size).u32(0))
        }
        fuse::FALLOCATE => {
            let (end, mode) = (request.u64(8)? + request.u64(16)?, request.u32(24)? as i32);
            match mode {
                0 => {
                    if end > state.model.attributes(node)?.len {
                        no_room(true)?;
                        state.model.set_len(node, end)?;
                    }
                }
                libc::FALLOC_FL_KEEP_SIZE => no_room(true)?,
                _ => return Err(libc::EOPNOTSUPP),
            }
            Ok(Answer::default())
        }
        fuse::FSYNC | fuse::FSYNCDIR => {
            state.counts.syncs += 1;
            if faults.failing_syncs {
                state.model.forsake(node);
                return Err(libc::EIO);
            }
            if request.opcode == fuse::FSYNC {
                state.model.sync(node)?;
            } else {
                state.model.sync_names(node)?;
            }
            Ok(Answer::default())
        }
        fuse::STATFS => {
            let free = if faults.full { 0 } else { CAPACITY.saturating_sub(state.model.used()) };
            Ok(Answer::statfs(CAPACITY, free))
        }
        fuse::READDIR => {
            let names = state.model.list(node)?;
            Ok(Answer::names(node, &names, request.u64(8)?, request.u32(16)? as usize))
        }
        fuse::RELEASE | fuse::RELEASEDIR => {
            if let Ok(handle) = request.u64(0) {
                state.open.remove(&handle);
            }
            let open: HashSet<Ino> = state.open.values().copied().collect();
            state.model.sweep(&open);
            Ok(Answer::default())
        }
        _ => Err(libc::ENOSYS),
    }
}

fn open(state: &mut State, ino: Ino) -> u64 {
    state.next_handle += 1;
    state.open.insert(state.next_handle, ino);
    state.next_handle
}
