//! Which pod has which address.
//!
//! One file per pod under `net/pods/`, named by the pod's uid, holding its address. A file is complete or absent
//! (written aside, synced, renamed), so that whatever a crash leaves is a valid state: an address may be recorded for a pod
//! that never got its link, and never the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::{Cidr, NetError};

/// Addresses at the bottom of the node's network that no pod gets: the network itself and one for a gateway.
const RESERVED: u32 = 2;

pub(super) struct Ipam {
    dir: PathBuf,
    cidr: Cidr,
    held: BTreeMap<String, Ipv4Addr>,
    /// Where the search starts, so that a freed address rests as long as possible.
    next: u32,
}

impl Ipam {
    /// Reads what is recorded. Files that are no record of an address of `cidr` are removed: they belong to an interrupted
    /// write or to another network.
    pub fn open(dir: &Path, cidr: Cidr) -> Result<Ipam, NetError> {
        let io = |what: String| move |source: io::Error| NetError::Io { what, source };
        fs::create_dir_all(dir).map_err(io(format!("cannot create {}", dir.display())))?;
        let mut held = BTreeMap::new();
        let mut taken = BTreeSet::new();
        let entries = fs::read_dir(dir).map_err(io(format!("cannot read {}", dir.display())))?;
        for entry in entries {
            let path = entry.map_err(io(format!("cannot read {}", dir.display())))?.path();
            let uid = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let address =
                fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<Ipv4Addr>().ok());
            match address {
                Some(address) if valid_uid(&uid) && cidr.contains(address) && taken.insert(address) => {
                    held.insert(uid, address);
                }
                _ => {
                    tracing::warn!(path = %path.display(), "removing a file that is no address record");
                    fs::remove_file(&path).map_err(io(format!("cannot remove {}", path.display())))?;
                }
            }
        }
        let next = held.values().map(|address| u32::from(*address)).max().map_or(0, |last| last + 1);
        Ok(Ipam { dir: dir.to_owned(), cidr, held, next })
    }

    pub fn get(&self, uid: &str) -> Option<Ipv4Addr> {
        self.held.get(uid).copied()
    }

    /// All pods with an address.
    pub fn pods(&self) -> impl Iterator<Item = (&str, Ipv4Addr)> {
        self.held.iter().map(|(uid, address)| (uid.as_str(), *address))
    }

    /// The pod's address; a new one, durable, where it has none.
    pub fn assign(&mut self, uid: &str) -> Result<Ipv4Addr, NetError> {
        if let Some(address) = self.get(uid) {
            return Ok(address);
        }
        if !valid_uid(uid) {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "not a pod uid");
            return Err(NetError::Io { what: format!("no address for {uid:?}"), source });
        }
        let taken: BTreeSet<Ipv4Addr> = self.held.values().copied().collect();
        let address = pick(self.cidr, self.next, &taken).ok_or(NetError::Exhausted(self.cidr))?;
        let what = || format!("cannot record the address of pod {uid}");
        self.write(uid, address).map_err(|source| NetError::Io { what: what(), source })?;
        self.next = u32::from(address).wrapping_add(1);
        self.held.insert(uid.to_owned(), address);
        Ok(address)
    }

    pub fn release(&mut self, uid: &str) -> Result<(), NetError> {
        if self.held.contains_key(uid) {
            match fs::remove_file(self.dir.join(uid)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(NetError::Io {
                        what: format!("cannot free the address of pod {uid}"),
                        source,
                    });
                }
                _ => {}
            }
            self.held.remove(uid);
        }
        Ok(())
    }

    fn write(&self, uid: &str, address: Ipv4Addr) -> io::Result<()> {
        let aside = self.dir.join(format!(".{uid}"));
        let mut file = File::create(&aside)?;
        writeln!(file, "{address}")?;
        file.sync_all()?;
        fs::rename(&aside, self.dir.join(uid))?;
        File::open(&self.dir)?.sync_all()
    }
}

/// A uid becomes a file name: letters, digits, `-` and `_`, and no more than 128 of them.
fn valid_uid(uid: &str) -> bool {
    (1..=128).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The first free address from `start` on, round the network's end.
fn pick(cidr: Cidr, start: u32, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let first = u32::from(cidr.network()).checked_add(RESERVED)?;
    let last = u32::from(cidr.last()).checked_sub(1)?;
    let free = |candidate: &u32| !taken.contains(&Ipv4Addr::from(*candidate));
    let start = if (first..=last).contains(&start) { start } else { first };
    (start..=last).chain(first..start).find(free).map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Ipam {
        Ipam::open(dir, "10.244.1.0/29".parse().unwrap()).unwrap()
    }

    #[test]
    fn a_pod_keeps_its_address_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut ipam = open(dir.path());
        let first = ipam.assign("a").unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 244, 1, 2));
        let second = ipam.assign("b").unwrap();
        assert_ne!(first, second);
        let mut again = open(dir.path());
        assert_eq!(again.assign("a").unwrap(), first);
        assert_eq!(again.get("b"), Some(second));
    }

    #[test]
    fn a_freed_address_is_the_last_to_be_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut ipam = open(dir.path());
        let first = ipam.assign("a").unwrap();
        ipam.release("a").unwrap();
        assert_ne!(ipam.assign("b").unwrap(), first);
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_given_and_exhaustion_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut ipam = open(dir.path());
        let given: Vec<u8> = (0..5).map(|n| ipam.assign(&format!("p{n}")).unwrap().octets()[3]).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert!(matches!(ipam.assign("more"), Err(NetError::Exhausted(_))));
        ipam.release("p2").unwrap();
        assert_eq!(ipam.assign("more").unwrap().octets()[3], 4);
    }

    #[test]
    fn what_an_interrupted_write_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".half"), "10.24").unwrap();
        fs::write(dir.path().join("other"), "192.168.0.4").unwrap();
        fs::write(dir.path().join("good"), "10.244.1.3\n").unwrap();
        let ipam = open(dir.path());
        assert_eq!(ipam.pods().collect::<Vec<_>>(), [("good", Ipv4Addr::new(10, 244, 1, 3))]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_uid_that_is_a_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path()).assign("../x").is_err());
        assert!(open(dir.path()).assign("").is_err());
    }
}
