//! What is on the disk, and what only seems to be there.
//!
//! Every file has two contents: what is read back (`now`) and what a power cut leaves for certain (`kept`), with the changes
//! that lie between them. A sync moves a file's changes from one side to the other, and does so for that file alone; names
//! belong to folders, and only a sync of the folder keeps them. This is what POSIX promises and no more: a file system of
//! the day keeps more of it, and a store may not build on that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;

pub type Ino = u64;
/// A number of libc's `E…`.
pub type Errno = i32;

pub const ROOT: Ino = 1;
/// A disk writes these whole, and nothing larger.
pub const SECTOR: usize = 512;
const PAGE: usize = 4096;
/// Unsynced bytes of one file past which the oldest are kept unasked, as a kernel's writeback does.
const WRITEBACK: usize = 64 << 20;

/// Bytes with holes; cheap to copy.
#[derive(Clone, Default)]
struct Contents {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

impl Contents {
    fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let size = size.min(self.len.saturating_sub(offset) as usize);
        let mut bytes = vec![0; size];
        for (page, within, range) in pieces(offset, size, PAGE) {
            if let Some(found) = self.pages.get(&page) {
                let length = range.len();
                bytes[range].copy_from_slice(&found[within..within + length]);
            }
        }
        bytes
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (page, within, range) in pieces(offset, bytes.len(), PAGE) {
            let page = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
            let length = range.len();
            Arc::make_mut(page)[within..within + length].copy_from_slice(&bytes[range]);
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (last, within) = (len / PAGE as u64, (len % PAGE as u64) as usize);
            self.pages.split_off(&(last + u64::from(within > 0)));
            if let Some(page) = self.pages.get_mut(&last) {
                Arc::make_mut(page)[within..].fill(0);
            }
        }
        self.len = len;
    }
}

/// Splits a range at multiples of `unit`: the number of each unit, where in it the piece begins, and the piece's place in
/// the whole.
fn pieces(
    offset: u64,
    size: usize,
    unit: usize,
) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= size {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % unit as u64) as usize;
        let length = (unit - within).min(size - done);
        let range = done..done + length;
        done += length;
        Some((at / unit as u64, within, range))
    })
}

enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

#[derive(Default)]
struct File {
    now: Contents,
    kept: Contents,
    unsynced: Vec<Change>,
    unsynced_bytes: usize,
}

impl File {
    fn note(&mut self, change: Change) {
        if let Change::Write { bytes, .. } = &change {
            self.unsynced_bytes += bytes.len();
        }
        self.unsynced.push(change);
        if self.unsynced_bytes > WRITEBACK {
            let half = self.unsynced.len().div_ceil(2);
            for change in self.unsynced.drain(..half) {
                match change {
                    Change::Write { offset, bytes } => {
                        self.unsynced_bytes -= bytes.len();
                        self.kept.write(offset, &bytes);
                    }
                    Change::Length(len) => self.kept.set_len(len),
                }
            }
        }
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Write { offset, bytes } => {
                    for (page, ..) in pieces(offset, bytes.len(), PAGE) {
                        match self.now.pages.get(&page) {
                            Some(found) => drop(self.kept.pages.insert(page, Arc::clone(found))),
                            None => drop(self.kept.pages.remove(&page)),
                        }
                    }
                    self.kept.len = self.kept.len.max(offset + bytes.len() as u64);
                }
                Change::Length(len) => self.kept.set_len(len),
            }
        }
        self.kept.len = self.now.len;
        self.unsynced_bytes = 0;
    }

    fn cut(&mut self, fate: Fate, random: &mut StdRng, loss: &mut Loss) {
        let writes = self.unsynced.len();
        let until = if writes == 0 { 0 } else { random.random_range(0..=writes) };
        for (number, change) in std::mem::take(&mut self.unsynced).into_iter().enumerate() {
            // The odds that a piece of this change is kept.
            let odds = match fate {
                Fate::Lost => 0.0,
                Fate::Scattered(odds) => odds,
                Fate::Ordered if number < until => 1.0,
                Fate::Ordered if number == until => 0.5,
                Fate::Ordered => 0.0,
            };
            match change {
                Change::Write { offset, bytes } => {
                    for (_, _, range) in pieces(offset, bytes.len(), SECTOR) {
                        if random.random_bool(odds) {
                            self.kept.write(offset + range.start as u64, &bytes[range]);
                            loss.sectors_kept += 1;
                        } else {
                            loss.sectors_lost += 1;
                        }
                    }
                }
                Change::Length(len) => {
                    if random.random_bool(odds) {
                        self.kept.set_len(len);
                    }
                }
            }
        }
        self.unsynced_bytes = 0;
        self.now = self.kept.clone();
    }
}

#[derive(Default)]
struct Folder {
    now: BTreeMap<String, Ino>,
    kept: BTreeMap<String, Ino>,
}

enum Node {
    File(File),
    Folder(Folder),
}

/// A name in a folder.
type Place = (Ino, String);

/// Each happens whole or not at all.
enum Naming {
    Given(Place, Ino),
    Taken(Place),
    Moved { from: Place, to: Place, ino: Ino },
}

impl Naming {
    fn touches(&self, folders: &HashSet<Ino>) -> bool {
        match self {
            Naming::Given(place, _) | Naming::Taken(place) => folders.contains(&place.0),
            Naming::Moved { from, to, .. } => folders.contains(&from.0) || folders.contains(&to.0),
        }
    }
}

/// What becomes of the unsynced at a power cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// Nothing of it is kept.
    Lost,
    /// Each sector and each name by itself is kept, with these odds: reordered and torn.
    Scattered(f64),
    /// What was written first, up to some change of each file, which is torn.
    Ordered,
}

impl Fate {
    pub fn any(random: &mut StdRng) -> Fate {
        match random.random_range(0..10) {
            0..3 => Fate::Lost,
            3..7 => Fate::Scattered(random.random_range(0.02..0.98)),
            _ => Fate::Ordered,
        }
    }
}

/// What a power cut cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    pub sectors_kept: u64,
    pub sectors_lost: u64,
    pub names_kept: u64,
    pub names_lost: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub ino: Ino,
    pub len: u64,
    pub folder: bool,
}

/// The whole disk.
pub struct Model {
    nodes: HashMap<Ino, Node>,
    unsynced_names: Vec<Naming>,
    next: Ino,
}

impl Default for Model {
    fn default() -> Model {
        let nodes = HashMap::from([(ROOT, Node::Folder(Folder::default()))]);
        Model { nodes, unsynced_names: Vec::new(), next: ROOT + 1 }
    }
}

impl Model {
    fn file(&mut self, ino: Ino) -> Result<&mut File, Errno> {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Folder(_)) => Err(libc::EISDIR),
            None => Err(libc::ESTALE),
        }
    }

    fn folder(&mut self, ino: Ino) -> Result<&mut Folder, Errno> {
        match self.nodes.get_mut(&ino) {
            Some(Node::Folder(folder)) => Ok(folder),
            Some(Node::File(_)) => Err(libc::ENOTDIR),
            None => Err(libc::ESTALE),
        }
    }

    pub fn attributes(&self, ino: Ino) -> Result<Attributes, Errno> {
        match self.nodes.get(&ino) {
            Some(Node::File(file)) => Ok(Attributes { ino, len: file.now.len, folder: false }),
            Some(Node::Folder(_)) => Ok(Attributes { ino, len: 0, folder: true }),
            None => Err(libc::ESTALE),
        }
    }

    pub fn lookup(&mut self, parent: Ino, name: &str) -> Result<Ino, Errno> {
        self.folder(parent)?.now.get(name).copied().ok_or(libc::ENOENT)
    }

    /// A new file, or the one that has the name already.
    pub fn create(&mut self, parent: Ino, name: &str) -> Result<Ino, Errno> {
        match self.lookup(parent, name) {
            Ok(ino) => self.file(ino).map(|_| ino),
            Err(libc::ENOENT) => self.add(parent, name, Node::File(File::default())),
            Err(error) => Err(error),
        }
    }

    pub fn create_folder(&mut self, parent: Ino, name: &str) -> Result<Ino, Errno> {
        match self.lookup(parent, name) {
            Ok(_) => Err(libc::EEXIST),
            Err(libc::ENOENT) => self.add(parent, name, Node::Folder(Folder::default())),
            Err(error) => Err(error),
        }
    }

    fn add(&mut self, parent: Ino, name: &str, node: Node) -> Result<Ino, Errno> {
        let ino = self.next;
        self.folder(parent)?.now.insert(name.to_owned(), ino);
        self.next += 1;
        self.nodes.insert(ino, node);
        self.unsynced_names.push(Naming::Given((parent, name.to_owned()), ino));
        Ok(ino)
    }

    /// Takes a file's name away; a folder's, where it is empty and one is expected.
    pub fn remove(&mut self, parent: Ino, name: &str, folder: bool) -> Result<(), Errno> {
        let ino = self.lookup(parent, name)?;
        match self.nodes.get(&ino) {
            Some(Node::Folder(_)) if !folder => return Err(libc::EISDIR),
            Some(Node::Folder(found)) if !found.now.is_empty() => return Err(libc::ENOTEMPTY),
            Some(Node::File(_)) if folder => return Err(libc::ENOTDIR),
            _ => {}
        }
        self.folder(parent)?.now.remove(name);
        self.unsynced_names.push(Naming::Taken((parent, name.to_owned())));
        Ok(())
    }

    pub fn rename(&mut self, from: (Ino, &str), to: (Ino, &str), replace: bool) -> Result<(), Errno> {
        let ino = self.lookup(from.0, from.1)?;
        match self.lookup(to.0, to.1) {
            Ok(_) if !replace => return Err(libc::EEXIST),
            Ok(there) if there == ino => return Ok(()),
            Ok(there) => {
                if let Some(Node::Folder(found)) = self.nodes.get(&there)
                    && !found.now.is_empty()
                {
                    return Err(libc::ENOTEMPTY);
                }
            }
            Err(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
        self.folder(to.0)?.now.insert(to.1.to_owned(), ino);
        self.folder(from.0)?.now.remove(from.1);
        self.unsynced_names.push(Naming::Moved {
            from: (from.0, from.1.to_owned()),
            to: (to.0, to.1.to_owned()),
            ino,
        });
        Ok(())
    }

    pub fn read(&mut self, ino: Ino, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
        Ok(self.file(ino)?.now.read(offset, size))
    }

    pub fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let file = self.file(ino)?;
        file.now.write(offset, bytes);
        file.note(Change::Write { offset, bytes: bytes.to_vec() });
        Ok(())
    }

    pub fn set_len(&mut self, ino: Ino, len: u64) -> Result<(), Errno> {
        let file = self.file(ino)?;
        file.now.set_len(len);
        file.note(Change::Length(len));
        Ok(())
    }

    /// Names in a folder, in order.
    pub fn list(&mut self, ino: Ino) -> Result<Vec<(String, Ino)>, Errno> {
        Ok(self.folder(ino)?.now.iter().map(|(name, ino)| (name.clone(), *ino)).collect())
    }

    /// Keeps a file's bytes and length. Its name is the folder's affair.
    pub fn sync(&mut self, ino: Ino) -> Result<(), Errno> {
        self.file(ino)?.sync();
        Ok(())
    }

    /// Keeps a folder's names, and what has to be kept before them.
    pub fn sync_names(&mut self, ino: Ino) -> Result<(), Errno> {
        self.folder(ino)?;
        let mut folders = HashSet::from([ino]);
        let mut rest = Vec::new();
        let mut synced = Vec::new();
        // Backwards: what a move depends on came before it.
        for naming in std::mem::take(&mut self.unsynced_names).into_iter().rev() {
            if naming.touches(&folders) {
                if let Naming::Moved { from, to, .. } = &naming {
                    folders.extend([from.0, to.0]);
                }
                synced.push(naming);
            } else {
                rest.push(naming);
            }
        }
        rest.reverse();
        self.unsynced_names = rest;
        for naming in synced.into_iter().rev() {
            self.keep(naming);
        }
        Ok(())
    }

    /// What a sync that failed leaves behind: the bytes can be read, no later sync keeps them, and a power cut takes them.
    pub fn forsake(&mut self, ino: Ino) {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(file)) => {
                file.unsynced.clear();
                file.unsynced_bytes = 0;
            }
            Some(Node::Folder(_)) => {
                self.unsynced_names.retain(|naming| !naming.touches(&HashSet::from([ino])))
            }
            None => {}
        }
    }

    fn keep(&mut self, naming: Naming) {
        let mut set = |place: Place, ino: Option<Ino>| {
            // A folder that is gone for good has no names to keep.
            if let Some(Node::Folder(folder)) = self.nodes.get_mut(&place.0) {
                match ino {
                    Some(ino) => drop(folder.kept.insert(place.1, ino)),
                    None => drop(folder.kept.remove(&place.1)),
                }
            }
        };
        match naming {
            Naming::Given(place, ino) => set(place, Some(ino)),
            Naming::Taken(place) => set(place, None),
            Naming::Moved { from, to, ino } => {
                set(from, None);
                set(to, Some(ino));
            }
        }
    }

    /// The power goes: what was not synced meets its fate, and what is kept is all there is.
    pub fn cut(&mut self, fate: Fate, random: &mut StdRng) -> Loss {
        let mut loss = Loss::default();
        let namings = std::mem::take(&mut self.unsynced_names);
        let until = if namings.is_empty() { 0 } else { random.random_range(0..=namings.len()) };
        for (number, naming) in namings.into_iter().enumerate() {
            let kept = match fate {
                Fate::Lost => false,
                Fate::Scattered(odds) => random.random_bool(odds),
                Fate::Ordered => number < until,
            };
            if kept {
                self.keep(naming);
                loss.names_kept += 1;
            } else {
                loss.names_lost += 1;
            }
        }
        // In the order of their numbers, so that a seed repeats.
        let mut numbers: Vec<Ino> = self.nodes.keys().copied().collect();
        numbers.sort_unstable();
        for ino in numbers {
            match self.nodes.get_mut(&ino) {
                Some(Node::File(file)) => file.cut(fate, random, &mut loss),
                Some(Node::Folder(folder)) => folder.now = folder.kept.clone(),
                None => {}
            }
        }
        self.sweep(&HashSet::new());
        loss
    }

    /// Forgets what has no name, now or after a power cut, and is not open.
    pub fn sweep(&mut self, open: &HashSet<Ino>) {
        let mut named: HashSet<Ino> = open.clone();
        named.insert(ROOT);
        for node in self.nodes.values() {
            if let Node::Folder(folder) = node {
                named.extend(folder.now.values().chain(folder.kept.values()));
            }
        }
        for naming in &self.unsynced_names {
            match naming {
                Naming::Given(_, ino) | Naming::Moved { ino, .. } => drop(named.insert(*ino)),
                Naming::Taken(_) => {}
            }
        }
        self.nodes.retain(|ino, _| named.contains(ino));
    }

    /// Bytes that files take, holes included.
    pub fn used(&self) -> u64 {
        self.nodes.values().map(|node| if let Node::File(file) = node { file.now.len } else { 0 }).sum()
    }
}
