//! What the disk promises, and that it promises no more.

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::model::{Model, ROOT};
use super::*;

fn random() -> StdRng {
    StdRng::seed_from_u64(7)
}

fn contents(model: &mut Model, name: &str) -> Option<Vec<u8>> {
    let ino = model.lookup(ROOT, name).ok()?;
    model.read(ino, 0, 1 << 20).ok()
}

#[test]
fn what_was_synced_is_kept_and_nothing_else() {
    let mut model = Model::default();
    let ino = model.create(ROOT, "a").unwrap();
    model.write(ino, 0, b"kept").unwrap();
    model.sync(ino).unwrap();
    model.sync_names(ROOT).unwrap();
    model.write(ino, 0, b"LOST and more").unwrap();
    assert_eq!(contents(&mut model, "a").unwrap(), b"LOST and more");
    model.cut(Fate::Lost, &mut random());
    assert_eq!(contents(&mut model, "a").unwrap(), b"kept");
}

#[test]
fn a_name_is_the_folders_affair() {
    let mut model = Model::default();
    let ino = model.create(ROOT, "a").unwrap();
    model.write(ino, 0, b"bytes").unwrap();
    model.sync(ino).unwrap();
    model.cut(Fate::Lost, &mut random());
    assert_eq!(contents(&mut model, "a"), None);
}

#[test]
fn a_rename_happens_whole_or_not_at_all() {
    for synced in [false, true] {
        let mut model = Model::default();
        for name in ["old", "new"] {
            let ino = model.create(ROOT, name).unwrap();
            model.write(ino, 0, name.as_bytes()).unwrap();
            model.sync(ino).unwrap();
        }
        model.sync_names(ROOT).unwrap();
        model.rename((ROOT, "new"), (ROOT, "old"), true).unwrap();
        if synced {
            model.sync_names(ROOT).unwrap();
        }
        model.cut(Fate::Lost, &mut random());
        assert_eq!(contents(&mut model, "old").unwrap(), if synced { b"new" } else { b"old" });
        assert_eq!(contents(&mut model, "new").is_none(), synced);
    }
}

#[test]
fn a_move_between_folders_is_kept_by_a_sync_of_either() {
    let mut model = Model::default();
    let folder = model.create_folder(ROOT, "folder").unwrap();
    model.sync_names(ROOT).unwrap();
    model.create(ROOT, "a").unwrap();
    model.rename((ROOT, "a"), (folder, "b"), true).unwrap();
    model.sync_names(folder).unwrap();
    model.sync_names(ROOT).unwrap();
    model.cut(Fate::Lost, &mut random());
    assert!(model.lookup(folder, "b").is_ok());
    assert!(model.lookup(ROOT, "a").is_err());
}

#[test]
fn a_write_is_torn_at_sectors_and_nowhere_else() {
    let mut model = Model::default();
    let ino = model.create(ROOT, "a").unwrap();
    model.write(ino, 0, &[1; SECTOR * 64]).unwrap();
    model.sync(ino).unwrap();
    model.sync_names(ROOT).unwrap();
    model.write(ino, 0, &[2; SECTOR * 64]).unwrap();
    let loss = model.cut(Fate::Scattered(0.5), &mut random());
    assert!(loss.sectors_kept > 0 && loss.sectors_lost > 0, "{loss:?}");
    assert_eq!(loss.sectors_kept + loss.sectors_lost, 64);
    for sector in contents(&mut model, "a").unwrap().chunks(SECTOR) {
        assert!(sector.iter().all(|byte| *byte == sector[0]));
    }
}

#[test]
fn after_a_sync_that_failed_no_later_one_keeps_the_bytes() {
    let mut model = Model::default();
    let ino = model.create(ROOT, "a").unwrap();
    model.write(ino, 0, &[1; 4096]).unwrap();
    model.sync(ino).unwrap();
    model.sync_names(ROOT).unwrap();
    model.write(ino, 0, &[2; 4096]).unwrap();
    model.forsake(ino);
    model.sync(ino).unwrap();
    assert_eq!(contents(&mut model, "a").unwrap(), [2; 4096]);
    model.cut(Fate::Lost, &mut random());
    assert_eq!(contents(&mut model, "a").unwrap(), [1; 4096]);
}

#[test]
fn a_length_is_kept_by_a_sync_too() {
    let mut model = Model::default();
    let ino = model.create(ROOT, "a").unwrap();
    model.write(ino, 0, &[1; 10_000]).unwrap();
    model.set_len(ino, 5000).unwrap();
    model.set_len(ino, 9000).unwrap();
    model.sync(ino).unwrap();
    model.sync_names(ROOT).unwrap();
    model.set_len(ino, 3).unwrap();
    model.cut(Fate::Lost, &mut random());
    let found = contents(&mut model, "a").unwrap();
    assert_eq!(found.len(), 9000);
    assert!(found[..5000].iter().all(|byte| *byte == 1) && found[5000..].iter().all(|byte| *byte == 0));
}

/// A random history against the plain definition: a file after a cut holds, sector by sector, a version that was once written.
#[test]
fn no_cut_invents_bytes() {
    use rand::Rng;
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut model = Model::default();
        let ino = model.create(ROOT, "a").unwrap();
        model.sync_names(ROOT).unwrap();
        let mut synced = 0_u8;
        for version in 1..=20_u8 {
            model.write(ino, 0, &[version; SECTOR * 4]).unwrap();
            if random.random_bool(0.2) {
                model.sync(ino).unwrap();
                synced = version;
            }
        }
        let fate = Fate::any(&mut random);
        model.cut(fate, &mut random);
        for sector in contents(&mut model, "a").unwrap().chunks(SECTOR) {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]) && sector[0] >= synced,
                "seed {seed}, {fate:?}"
            );
        }
    }
}

/// A mounted disk in a mount namespace of this thread; `None` where that cannot be.
fn mounted() -> Option<(tempfile::TempDir, Disk)> {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: this needs root and /dev/fuse");
        return None;
    }
    crate::world::private_mounts().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::mount(dir.path()).unwrap();
    Some((dir, disk))
}

#[test]
fn root_files_are_what_they_are_elsewhere() {
    let Some((dir, disk)) = mounted() else { return };
    let path = dir.path().join("folder/file");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    file.write_all(b"hello world").unwrap();
    file.write_all_at(&vec![7; 3 << 20], 100).unwrap();
    file.sync_data().unwrap();
    let mut all = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut all).unwrap();
    assert_eq!((all.len(), &all[..11], all[11], all[100]), ((3 << 20) + 100, &b"hello world"[..], 0, 7));
    file.set_len(5).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"hello");
    // SAFETY: plain calls on a descriptor that is open.
    unsafe {
        assert_eq!(libc::fallocate(file.as_raw_fd(), 0, 0, 8 << 20), 0);
        assert_eq!(libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB), 0);
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 << 20);
    std::fs::rename(&path, dir.path().join("moved")).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["folder", "moved"]);
    std::fs::remove_dir(dir.path().join("folder")).unwrap();
    std::fs::remove_file(dir.path().join("moved")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 8 << 20, "a file without a name lives while it is open");
    assert!(disk.counts().writes > 0 && disk.counts().syncs > 0);
}

#[test]
fn root_a_power_cut_takes_what_was_not_synced() {
    let Some((dir, disk)) = mounted() else { return };
    let path = dir.path().join("file");
    let file = File::create(&path).unwrap();
    file.write_all_at(b"kept", 0).unwrap();
    file.sync_all().unwrap();
    File::open(dir.path()).unwrap().sync_all().unwrap();
    // The next request that changes something never happens.
    disk.cut_power_at(1, 3);
    assert_eq!(file.write_all_at(b"lost", 0).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(disk.await_cut(Duration::from_secs(5)).is_some());
    assert!(std::fs::read(&path).is_err(), "there is no power");
    drop(file);
    disk.restore_power();
    assert_eq!(std::fs::read(&path).unwrap(), b"kept");
}

#[test]
fn root_faults_come_and_go() {
    let Some((dir, disk)) = mounted() else { return };
    let file = File::create(dir.path().join("file")).unwrap();
    let errno = |result: std::io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    disk.set(Faults { failing_syncs: true, ..Faults::default() });
    assert_eq!(errno(file.sync_all()), Some(libc::EIO));
    disk.set(Faults { failing_writes: true, ..Faults::default() });
    assert_eq!(errno(file.write_all_at(b"x", 0)), Some(libc::EIO));
    disk.set(Faults { full: true, ..Faults::default() });
    assert_eq!(errno(file.write_all_at(b"x", 0)), Some(libc::ENOSPC));
    assert_eq!(errno(File::create(dir.path().join("other")).map(drop)), Some(libc::ENOSPC));
    let free = nix::sys::statvfs::statvfs(dir.path()).unwrap().blocks_available();
    assert_eq!(free, 0);
    let slow = Duration::from_millis(30);
    disk.set(Faults { per_sync: slow, ..Faults::default() });
    let begun = Instant::now();
    file.sync_all().unwrap();
    assert!(begun.elapsed() >= slow);
    disk.set(Faults { stalled: true, ..Faults::default() });
    std::thread::scope(|scope| {
        let stalled = scope.spawn(|| file.write_all_at(b"x", 0));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!stalled.is_finished());
        disk.set(Faults::default());
        stalled.join().unwrap().unwrap();
    });
}
