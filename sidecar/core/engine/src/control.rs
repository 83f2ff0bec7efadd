//! The control file of one engine incarnation: the only thing an engine writes besides its slots.
//!
//! The first process of the incarnation makes it under a temporary name, initialises it, takes its lock byte and links it to its final name, so that
//! the sidecar never sees a half-made or unlocked one. Everybody else opens what is there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::abi::{self, Stated};
use crate::error::{CoreError, Result};
use crate::guard::GuardedRange;
use crate::layout::*;
use crate::locks;
use crate::map::SharedMap;

/// Random bytes that name one life of an engine; never reused.
pub type Incarnation = [u8; 16];

/// [`CtlHeader::state`]: the sidecar has not seen it yet.
pub const STATE_NEW: u32 = 0;
/// [`CtlHeader::state`]: in the incarnation table.
pub const STATE_ACCEPTED: u32 = 1;
/// [`CtlHeader::state`]: refused or dropped; it stays cold.
pub const STATE_REFUSED: u32 = 2;

/// [`CtlHeader::refused_reason`]: neither this ABI nor the one before or after.
pub const REFUSED_ABI: u32 = 1;
/// [`CtlHeader::refused_reason`]: a slot would be larger than an extent.
pub const REFUSED_GEOMETRY: u32 = 2;
/// [`CtlHeader::refused_reason`]: its file was truncated.
pub const REFUSED_FAULT: u32 = 3;
/// [`CtlHeader::refused_reason`]: no tag or no slot class is left.
pub const REFUSED_TABLE_FULL: u32 = 4;
/// [`CtlHeader::refused_reason`]: it was attached to an index or an arena that was replaced.
pub const REFUSED_STALE: u32 = 5;

/// A mapped control file. The descriptor stays open as long as this lives: closing it would drop this process's locks on it.
#[derive(Debug)]
pub struct Ctl {
    /// The sidecar's mappings only: an engine's process keeps its own signal handlers. Before the mapping, as fields drop in this order.
    guard: Option<GuardedRange>,
    map: SharedMap,
    file: File,
    path: PathBuf,
}

/// R/run/ctl-<32 hex>.
pub fn path_of(run: &Path, incarnation: &Incarnation) -> PathBuf {
    let hex: String = incarnation.iter().map(|byte| format!("{byte:02x}")).collect();
    run.join(format!("ctl-{hex}"))
}

/// The incarnation that a file name in R/run stands for.
pub fn incarnation_of(name: &str) -> Option<Incarnation> {
    let hex = name.strip_prefix("ctl-").filter(|hex| hex.len() == 32 && hex.is_ascii())?;
    let mut id = [0; 16];
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(id)
}

/// The lock byte of a role; -1 is the scheduler.
pub fn lock_byte(rank: i32) -> u64 {
    LOCK_BYTE + u64::try_from(rank + 1).expect("a rank is -1 or more")
}

impl Ctl {
    /// Open the incarnation's file or make it; this process then holds the lock byte of `rank`.
    pub fn create_or_open(run: &Path, incarnation: &Incarnation, n_ranks: u32, n_groups: u32, rank: i32) -> Result<Self> {
        let path = path_of(run, incarnation);
        // A file can vanish between the failed link and the open when its first process died at once; then it is made again.
        for _ in 0..3 {
            match Self::map(&path) {
                Ok(ctl) => return ctl.join(incarnation, n_ranks, n_groups, rank),
                Err(CoreError::Absent { .. }) => {}
                Err(error) => return Err(error),
            }
            if let Some(ctl) = Self::create(&path, incarnation, n_ranks, n_groups, rank)? {
                return Ok(ctl);
            }
        }
        Err(CoreError::invalid(format!("{}: comes and goes; use a new incarnation", path.display())))
    }

    /// Map a file that an engine made, for the sidecar: behind the fault guard before the first byte is read, as its maker can truncate it at any
    /// time. Its size is checked, nothing else is believed.
    pub fn open(path: &Path) -> Result<Self> {
        let mut ctl = Self::map(path)?;
        let guard = GuardedRange::new(&ctl.map);
        // Nothing was touched yet: without a place in the guard's table.
        if guard.is_poisoned() {
            return Err(CoreError::invalid(format!("{}: too many mappings to guard one more", path.display())));
        }
        ctl.guard = Some(guard);
        Ok(ctl)
    }

    fn map(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => CoreError::Absent { path: path.to_owned(), source: e },
            _ => CoreError::io("open", path, e),
        })?;
        let len = file.metadata().map_err(|e| CoreError::io("stat", path, e))?.len();
        if len != ctl::FILE_BYTES as u64 {
            return Err(CoreError::invalid(format!("{}: {len} bytes, a control file has {}", path.display(), ctl::FILE_BYTES)));
        }
        let map = SharedMap::new(file.as_fd(), ctl::FILE_BYTES, true).map_err(|e| CoreError::io("mmap", path, e))?;
        Ok(Self { guard: None, map, file, path: path.to_owned() })
    }

    fn create(path: &Path, incarnation: &Incarnation, n_ranks: u32, n_groups: u32, rank: i32) -> Result<Option<Self>> {
        let fresh = path.with_extension(format!("tmp-{}-{}", std::process::id(), rank + 1));
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o666).open(&fresh);
        let file = made.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => CoreError::Absent { path: fresh.clone(), source: e },
            _ => CoreError::io("create", &fresh, e),
        })?;
        let linked = Self::fill(file, path, &fresh, incarnation, n_ranks, n_groups, rank);
        std::fs::remove_file(&fresh).map_err(|e| CoreError::io("unlink", &fresh, e))?;
        linked
    }

    fn fill(
        file: File,
        path: &Path,
        fresh: &Path,
        incarnation: &Incarnation,
        n_ranks: u32,
        n_groups: u32,
        rank: i32,
    ) -> Result<Option<Self>> {
        rustix::fs::fchmod(&file, 0o666.into()).map_err(|e| CoreError::io("fchmod", fresh, e))?;
        rustix::fs::ftruncate(&file, ctl::FILE_BYTES as u64).map_err(|e| CoreError::io("ftruncate", fresh, e))?;
        let map = SharedMap::new(file.as_fd(), ctl::FILE_BYTES, true).map_err(|e| CoreError::io("mmap", fresh, e))?;
        let ctl = Self { guard: None, map, file, path: path.to_owned() };
        let header = ctl.header();
        abi::state(&header.abi, &header.client_abi);
        header.n_ranks.store(n_ranks, Ordering::Relaxed);
        header.n_groups.store(n_groups, Ordering::Relaxed);
        store_id(&header.incarnation, incarnation);
        header.magic.store(CTL_MAGIC, Ordering::Release);
        ctl.lock(rank)?;
        match std::fs::hard_link(fresh, path) {
            Ok(()) => Ok(Some(ctl)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(CoreError::io("link", path, error)),
        }
    }

    fn join(self, incarnation: &Incarnation, n_ranks: u32, n_groups: u32, rank: i32) -> Result<Self> {
        let header = self.header();
        if header.magic.load(Ordering::Acquire) != CTL_MAGIC || load_id(&header.incarnation) != *incarnation {
            return Err(CoreError::invalid(format!("{}: no control file of this incarnation", self.path.display())));
        }
        Stated::by_client(&self).check(&self.path)?;
        let shape = (header.n_ranks.load(Ordering::Relaxed), header.n_groups.load(Ordering::Relaxed));
        if shape != (n_ranks, n_groups) {
            let (path, (ranks, groups)) = (self.path.display(), shape);
            return Err(CoreError::invalid(format!("{path}: made for {ranks} ranks and {groups} groups, not {n_ranks} and {n_groups}")));
        }
        self.lock(rank)?;
        Ok(self)
    }

    /// Hold the lock byte of a role for this process.
    pub fn lock(&self, rank: i32) -> Result<()> {
        match locks::try_lock_byte(self.file.as_fd(), lock_byte(rank)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(CoreError::RoleTaken { path: self.path.clone(), rank }),
            Err(error) => Err(CoreError::io("fcntl(F_SETLK)", &self.path, error)),
        }
    }

    /// Give the lock byte of a role back.
    pub fn unlock(&self, rank: i32) {
        // Cannot fail for a byte this process holds; if it did, the lock ends with the process.
        let _ = locks::unlock_byte(self.file.as_fd(), lock_byte(rank));
    }

    /// True while any process of the incarnation lives.
    pub fn is_held(&self) -> bool {
        // An error here must not look like death: leases would come back under a living engine.
        locks::is_any_locked(self.file.as_fd(), LOCK_BYTE, 1 + MAX_RANKS as u64).unwrap_or(true)
    }

    /// The file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True once a page of it was missing: it was truncated, and nothing in it can be believed.
    pub fn is_poisoned(&self) -> bool {
        self.guard.as_ref().is_some_and(GuardedRange::is_poisoned)
    }

    /// Keep the descriptor open for ever. Closing it would end the locks that attachments of this same process hold on the file.
    pub fn leak(self) {
        std::mem::forget(self.file);
    }

    /// Page 0.
    #[inline]
    pub fn header(&self) -> &CtlHeader {
        self.map.cell(0)
    }

    /// A rank's record.
    pub fn rank(&self, rank: usize) -> &RankRecord {
        assert!(rank < MAX_RANKS, "rank {rank}");
        self.map.cell(ctl::RANKS + rank * size_of::<RankRecord>())
    }

    /// Head and tail of the submission ring.
    #[inline]
    pub fn ring(&self) -> &RingHeader {
        self.map.cell(ctl::RING)
    }

    /// A record of the submission ring.
    #[inline]
    pub fn op(&self, place: u64) -> &OpRecord {
        self.map.cell(ctl::OPS + (place % RING_OPS as u64) as usize * size_of::<OpRecord>())
    }

    /// Head and tail of a group's grant ring.
    pub fn grant_ring(&self, group: usize) -> &RingHeader {
        assert!(group < MAX_GROUPS, "group {group}");
        self.map.cell(ctl::GRANTS + group * ctl::GRANT_BYTES)
    }

    /// A slot of a group's grant ring.
    pub fn grant_slot(&self, group: usize, place: u64) -> &AtomicU32 {
        assert!(group < MAX_GROUPS, "group {group}");
        let ring = ctl::GRANTS + group * ctl::GRANT_BYTES;
        self.map.cell(ring + size_of::<RingHeader>() + (place % GRANT_SLOTS as u64) as usize * 4)
    }

    /// A ticket.
    pub fn ticket(&self, place: usize) -> &TicketRecord {
        assert!(place < MAX_TICKETS, "ticket {place}");
        self.map.cell(ctl::TICKETS + place * size_of::<TicketRecord>())
    }

    /// Rank `rank`'s word for a ticket: the ticket's id once its copy is done.
    pub fn ack(&self, rank: usize, place: usize) -> &AtomicU64 {
        assert!(rank < MAX_RANKS && place < MAX_TICKETS, "ack {rank}, {place}");
        self.map.cell(ctl::ACKS + (rank * MAX_TICKETS + place) * 8)
    }
}

/// Store 16 bytes as two words.
pub fn store_id(words: &[AtomicU64; 2], id: &[u8; 16]) {
    let value = u128::from_le_bytes(*id);
    words[0].store(value as u64, Ordering::Relaxed);
    words[1].store((value >> 64) as u64, Ordering::Relaxed);
}

/// Load 16 bytes from two words.
pub fn load_id(words: &[AtomicU64; 2]) -> [u8; 16] {
    let (low, high) = (words[0].load(Ordering::Relaxed), words[1].load(Ordering::Relaxed));
    (u128::from(low) | (u128::from(high) << 64)).to_le_bytes()
}
