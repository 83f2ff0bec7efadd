//! The folder of stores: which slot-N is this daemon's, and a file in it that is whole or not there.
//!
//! A slot belongs to whoever holds the flock on its `lock` file: no stale lock survives its holder, and no store is ever shared. The store's file is
//! made under another name, allocated to its last byte, synced and only then renamed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};
use rustix::io::Errno;

use super::format::{Geometry, decode_superblock, decode_table_page, encode_superblock, encode_table_page};
use super::{NvmeConfig, NvmeError};
use crate::header::Page;
use crate::layout::PAGE_BYTES;

const FILE_MODE: u32 = 0o600;
/// Whoever may write the folder may put a link in a file's place: it is refused, wherever it points.
const NO_LINK: i32 = libc::O_NOFOLLOW;

/// A store's file, ready to be used, and the lock that makes it ours.
#[derive(Debug)]
pub struct Folder {
    /// Held for the store's life.
    pub lock: File,
    pub slot_number: u32,
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
        fs::create_dir_all(dir).map_err(|error| NvmeError::io("making the folder", dir, error))?;
        let (slot_number, lock) = take_slot(dir, config.slots)?;
        let slot_dir = slot_dir(dir, slot_number);
        let path = slot_dir.join("chunks");
        let mut folder = Self {
            lock,
            slot_number,
            path,
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
            Adoption::Absent => folder.make(&slot_dir)?,
            Adoption::Refused(why) => {
                folder.reformatted = Some(why);
                folder.make(&slot_dir)?;
            }
        }
        Ok(folder)
    }

    fn adopt(&mut self) -> Result<Adoption, NvmeError> {
        let at = |what| move |error: io::Error| (what, error);
        let read = || -> Result<_, (&'static str, io::Error)> {
            let file = OpenOptions::new().read(true).write(true).custom_flags(NO_LINK).open(&self.path).map_err(at("opening the store"))?;
            let len = file.metadata().map_err(at("looking at the store"))?.len();
            Ok((file, len))
        };
        let (file, len) = match read() {
            Err((_, error)) if error.kind() == io::ErrorKind::NotFound => return Ok(Adoption::Absent),
            Err((what, error)) => return Err(NvmeError::io(what, &self.path, error)),
            Ok(found) => found,
        };
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

    fn make(&mut self, slot_dir: &Path) -> Result<(), NvmeError> {
        let unfinished = slot_dir.join("chunks.new");
        for stale in [&unfinished, &self.path] {
            match fs::remove_file(stale) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(NvmeError::io("removing a store", stale, error)),
                _ => {}
            }
        }
        let made = self.fill(&unfinished).and_then(|()| {
            fs::rename(&unfinished, &self.path).map_err(|error| NvmeError::io("naming the store", &unfinished, error))?;
            let synced = File::open(slot_dir).and_then(|dir| dir.sync_all());
            synced.map_err(|error| NvmeError::io("syncing the folder", slot_dir, error))
        });
        if made.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&unfinished);
        }
        made
    }

    fn fill(&mut self, unfinished: &Path) -> Result<(), NvmeError> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(unfinished);
        let file = file.map_err(|error| NvmeError::io("making the store", unfinished, error))?;
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
        statvfs(self.path.parent().unwrap_or(&self.path)).map_or(0, |found| found.f_bavail * found.f_frsize)
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

fn slot_dir(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("slot-{number}"))
}

fn take_slot(dir: &Path, slots: u32) -> Result<(u32, File), NvmeError> {
    for number in 0..slots {
        let slot_dir = slot_dir(dir, number);
        make_folder(&slot_dir).map_err(|error| NvmeError::io("making the slot's folder", &slot_dir, error))?;
        let path = slot_dir.join("lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).custom_flags(NO_LINK).open(&path);
        let file = file.map_err(|error| NvmeError::io("opening the slot's lock", &path, error))?;
        match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok((number, file)),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(NvmeError::io("locking the slot", &path, error)),
        }
    }
    Err(NvmeError::NoFreeSlot { dir: dir.to_owned(), slots })
}

fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    OpenOptions::new().read(true).custom_flags(NO_LINK | libc::O_DIRECTORY).open(path).map(|_| ())
}

fn read_page(file: &File, offset: u64) -> io::Result<Page> {
    let mut page = [0; PAGE_BYTES as usize];
    file.read_exact_at(&mut page, offset)?;
    Ok(page)
}
