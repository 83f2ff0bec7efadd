//! The folder of stores: which slot-N is this daemon's, and a file in it that is whole or not there.
//!
//! A slot belongs to whoever holds the flock on its `lock` file: no stale lock survives its holder, and no store is ever shared. The store's file is
//! made under another name, allocated to its last byte, synced and only then renamed.
//!
//! Whoever may write the volume may put a link in a file's or a folder's place: everything is opened [`beneath`](super::beneath) what is open already,
//! and a link is refused wherever it stands and points.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, fallocate, flock, fstatvfs, fsync, mkdirat, renameat, unlinkat};
use rustix::io::Errno;

use super::beneath;
use super::format::{Geometry, decode_superblock, decode_table_page, encode_superblock, encode_table_page};
use super::{NvmeConfig, NvmeError};
use crate::header::Page;
use crate::layout::PAGE_BYTES;

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);
const STORE: &str = "chunks";
/// Its name while it is made.
const UNFINISHED: &str = "chunks.new";
const LOCK: &str = "lock";

/// A store's file, ready to be used, and the lock that makes it ours.
#[derive(Debug)]
pub struct Folder {
    /// Held for the store's life.
    pub lock: File,
    pub slot_number: u32,
    /// The folder slot-N.
    slot: OwnedFd,
    /// The store's file, for what is told of it. Nothing is opened by it.
    pub path: PathBuf,
    pub geometry: Geometry,
    /// What must stay free on the volume beyond a store that is made.
    reserve_bytes: u64,
    pub store_id: [u8; 16],
    /// In pages, by extent.
    pub strides: Vec<u32>,
    /// Table pages that could not be read.
    pub damaged_table_pages: Vec<u64>,
    pub adopted: bool,
    /// Why an existing file was not kept.
    pub reformatted: Option<String>,
}

impl Folder {
    /// Take the first free slot and adopt or make its store.
    pub fn open(dir: &Path, config: &NvmeConfig) -> Result<Self, NvmeError> {
        let geometry = geometry_of(config)?;
        let opened = beneath::open_or_make_folder(dir).map_err(|error| NvmeError::opening("making the folder", dir, error))?;
        let (slot_number, slot, lock) = take_slot(&opened, dir, config.slots)?;
        let mut folder = Self {
            lock,
            slot_number,
            slot,
            path: slot_path(dir, slot_number).join(STORE),
            geometry,
            reserve_bytes: reserve_of(config),
            store_id: [0; 16],
            strides: Vec::new(),
            damaged_table_pages: Vec::new(),
            adopted: false,
            reformatted: None,
        };
        match folder.adopt()? {
            Adoption::Whole => folder.adopted = true,
            Adoption::Absent => folder.make()?,
            Adoption::Refused(why) => {
                folder.reformatted = Some(why);
                folder.make()?;
            }
        }
        Ok(folder)
    }

    /// The store's file to read and write, with `flags` beside.
    pub fn open_store(&self, flags: OFlags) -> rustix::io::Result<File> {
        beneath::open(&self.slot, Path::new(STORE), OFlags::RDWR | flags, Mode::empty()).map(File::from)
    }

    fn adopt(&mut self) -> Result<Adoption, NvmeError> {
        let file = match self.open_store(OFlags::empty()) {
            Err(Errno::NOENT) => return Ok(Adoption::Absent),
            opened => opened.map_err(|error| NvmeError::opening("opening the store", &self.path, error))?,
        };
        let len = file.metadata().map_err(|error| NvmeError::io("looking at the store", &self.path, error))?.len();
        if len < PAGE_BYTES {
            return Ok(Adoption::Refused(format!("its file has {len} bytes")));
        }
        let superblock = read_page(&file, 0).map_err(|error| NvmeError::io("reading the superblock", &self.path, error))?;
        match decode_superblock(&superblock, &self.geometry) {
            Ok(id) if len == self.geometry.capacity_bytes => self.store_id = id,
            Ok(_) => return Ok(Adoption::Refused(format!("its file has {len} bytes"))),
            Err(why) => return Ok(Adoption::Refused(why)),
        }
        self.read_table(&file)?;
        // A copy of a store may have holes, which would turn into ENOSPC later.
        self.allocate(&file)?;
        Ok(Adoption::Whole)
    }

    fn read_table(&mut self, file: &File) -> Result<(), NvmeError> {
        for table_page in 0..self.geometry.table_pages {
            let page = read_page(file, Geometry::table_offset(table_page));
            let page = page.map_err(|error| NvmeError::io("reading the extent table", &self.path, error))?;
            match decode_table_page(table_page, &page) {
                Some(strides) => self.strides.extend(strides),
                None => {
                    self.damaged_table_pages.push(table_page);
                    self.strides.extend([0; super::TABLE_ENTRIES_PER_PAGE as usize]);
                }
            }
        }
        self.strides.truncate(self.geometry.extent_count as usize);
        Ok(())
    }

    fn make(&mut self) -> Result<(), NvmeError> {
        let unfinished = self.path.with_file_name(UNFINISHED);
        for (stale, path) in [(UNFINISHED, &unfinished), (STORE, &self.path)] {
            match unlinkat(&self.slot, stale, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(NvmeError::io("removing a store", path, error)),
            }
        }
        let made = self.fill(&unfinished).and_then(|()| {
            renameat(&self.slot, UNFINISHED, &self.slot, STORE).map_err(|error| NvmeError::io("naming the store", &unfinished, error))?;
            fsync(&self.slot).map_err(|error| NvmeError::io("syncing the folder", &self.path, error))
        });
        if made.is_err() {
            // The first error is the one to tell.
            let _ = unlinkat(&self.slot, UNFINISHED, AtFlags::empty());
        }
        made
    }

    fn fill(&mut self, unfinished: &Path) -> Result<(), NvmeError> {
        let file = beneath::open(&self.slot, Path::new(UNFINISHED), OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, FILE_MODE);
        let file = file.map(File::from).map_err(|error| NvmeError::opening("making the store", unfinished, error))?;
        let free_before_bytes = self.allocate(&file)?;
        // A file system that is full to the brim is slow and, copying on write, may refuse even what is allocated.
        if self.free_bytes() < self.reserve_bytes {
            return Err(self.too_small(free_before_bytes));
        }
        let drawn = rustix::rand::getrandom(&mut self.store_id, rustix::rand::GetRandomFlags::empty());
        if !matches!(drawn, Ok(16)) {
            return Err(NvmeError::io("drawing a store id", unfinished, io::Error::other("no random bytes")));
        }
        self.strides = vec![0; self.geometry.extent_count as usize];
        let write = || -> io::Result<()> {
            for table_page in 0..self.geometry.table_pages {
                file.write_all_at(&encode_table_page(table_page, &[]), Geometry::table_offset(table_page))?;
            }
            file.write_all_at(&encode_superblock(&self.geometry, self.store_id), 0)?;
            file.sync_all()
        };
        write().map_err(|error| NvmeError::io("writing the superblock", unfinished, error))
    }

    /// Returns what was free before.
    fn allocate(&self, file: &File) -> Result<u64, NvmeError> {
        let free_bytes = self.free_bytes();
        loop {
            return match fallocate(file.as_fd(), FallocateFlags::empty(), 0, self.geometry.capacity_bytes) {
                Ok(()) => Ok(free_bytes),
                Err(Errno::INTR) => continue,
                Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Err(self.too_small(free_bytes)),
                Err(error) => Err(NvmeError::io("allocating the store", &self.path, error)),
            };
        }
    }

    fn free_bytes(&self) -> u64 {
        fstatvfs(&self.slot).map_or(0, |found| found.f_bavail * found.f_frsize)
    }

    fn too_small(&self, free_bytes: u64) -> NvmeError {
        NvmeError::VolumeTooSmall {
            dir: self.path.parent().unwrap_or(&self.path).to_owned(),
            wanted_bytes: self.geometry.capacity_bytes,
            reserve_bytes: self.reserve_bytes,
            free_bytes,
        }
    }
}

enum Adoption {
    Whole,
    Absent,
    Refused(String),
}

fn geometry_of(config: &NvmeConfig) -> Result<Geometry, NvmeError> {
    Geometry::of(config.capacity_bytes / PAGE_BYTES * PAGE_BYTES)
        .ok_or_else(|| NvmeError::Invalid(format!("capacity_bytes {} holds no slot; give it at least 2 MiB", config.capacity_bytes)))
}

fn reserve_of(config: &NvmeConfig) -> u64 {
    (u128::from(config.capacity_bytes) * u128::from(config.reserve_percent) / 100) as u64
}

fn slot_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(slot_name(number))
}

fn slot_name(number: u32) -> String {
    format!("slot-{number}")
}

/// The first slot beneath `opened` whose lock is free: its number, its folder and the lock. `dir` is the folder's path.
fn take_slot(opened: &OwnedFd, dir: &Path, slots: u32) -> Result<(u32, OwnedFd, File), NvmeError> {
    for number in 0..slots {
        let path = slot_path(dir, number);
        let slot = make_slot(opened, &slot_name(number)).map_err(|error| NvmeError::opening("making the slot's folder", &path, error))?;
        let path = path.join(LOCK);
        let lock = beneath::open(&slot, Path::new(LOCK), OFlags::RDWR | OFlags::CREATE, FILE_MODE);
        let lock = lock.map(File::from).map_err(|error| NvmeError::opening("opening the slot's lock", &path, error))?;
        match flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok((number, slot, lock)),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(NvmeError::io("locking the slot", &path, error)),
        }
    }
    Err(NvmeError::NoFreeSlot { dir: dir.to_owned(), slots })
}

fn make_slot(folder: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    match mkdirat(folder, name, FOLDER_MODE) {
        Ok(()) | Err(Errno::EXIST) => beneath::open(folder, Path::new(name), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()),
        Err(error) => Err(error),
    }
}

fn read_page(file: &File, offset: u64) -> io::Result<Page> {
    let mut page = [0; PAGE_BYTES as usize];
    file.read_exact_at(&mut page, offset)?;
    Ok(page)
}
