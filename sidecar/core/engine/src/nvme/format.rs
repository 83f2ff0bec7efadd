//! The store file's own pages: superblock, extent table, scratch page. `docs/formats.md` has the tables.
//!
//! Page 0 is the superblock, then the table, then one scratch page for probes, then at the next MiB the extents. All sizes follow from the
//! capacity, so a reader computes them and refuses a superblock that says otherwise.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use crate::checksum;
use crate::header::Page;
use crate::layout::{EXTENT_BYTES, MIN_STRIDE_BYTES, PAGE_BYTES, stride_is_valid};

/// First bytes of a store.
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"SPWNVME1";
/// The version of the store's own pages.
pub const STORE_VERSION: u32 = 1;
/// Extents that one table page describes; its first 8 bytes are its digest.
pub const TABLE_ENTRIES_PER_PAGE: u64 = (PAGE_BYTES - 8) / 4;
const EXTENTS_ALIGN_BYTES: u64 = 1 << 20;
/// A digest of the table's page number too: two pages swapped on the device are damage.
const TABLE_DIGEST_BYTES: usize = 8;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RawSuperblock {
    magic: [u8; 8],
    version: u32,
    table_pages: u32,
    store_id: [u8; 16],
    capacity_bytes: u64,
    extent_count: u64,
    extents_offset: u64,
    checksum: u64,
}

macro_rules! fields {
    ($($field:ident = $offset:expr, $bytes:expr);* $(;)?) => {
        const _: () = { $(assert!(offset_of!(RawSuperblock, $field) == $offset);)* };
        /// (field, offset, bytes), as docs/formats.md states them.
        pub const SUPERBLOCK_FIELDS: &[(&str, usize, usize)] = &[$((stringify!($field), $offset, $bytes)),*];
    };
}
fields! {
    magic = 0, 8; version = 8, 4; table_pages = 12, 4; store_id = 16, 16; capacity_bytes = 32, 8; extent_count = 40, 8;
    extents_offset = 48, 8; checksum = 56, 8;
}
const RAW_BYTES: usize = size_of::<RawSuperblock>();
const _: () = assert!(RAW_BYTES == 64);

/// Where everything lies in a file of some capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the file.
    pub capacity_bytes: u64,
    /// Pages of the extent table.
    pub table_pages: u64,
    /// Extents, the last one perhaps short.
    pub extent_count: u64,
    /// Where the first one begins.
    pub extents_offset: u64,
}

impl Geometry {
    /// None when the capacity holds no slot.
    pub fn of(capacity_bytes: u64) -> Option<Self> {
        let table_pages = capacity_bytes.div_ceil(EXTENT_BYTES).div_ceil(TABLE_ENTRIES_PER_PAGE).max(1);
        let extents_offset = ((table_pages + 2) * PAGE_BYTES).next_multiple_of(EXTENTS_ALIGN_BYTES);
        let room = capacity_bytes.checked_sub(extents_offset)?;
        let extent_count = room.div_ceil(EXTENT_BYTES);
        (room >= MIN_STRIDE_BYTES).then_some(Self { capacity_bytes, table_pages, extent_count, extents_offset })
    }

    /// First byte of an extent.
    pub fn extent_offset(&self, extent: u64) -> u64 {
        self.extents_offset + extent * EXTENT_BYTES
    }

    /// Bytes of an extent.
    pub fn extent_bytes(&self, extent: u64) -> u64 {
        (self.capacity_bytes - self.extent_offset(extent)).min(EXTENT_BYTES)
    }

    /// Byte of a table page.
    pub fn table_offset(table_page: u64) -> u64 {
        (1 + table_page) * PAGE_BYTES
    }

    /// Byte of the page that probes write.
    pub fn scratch_offset(&self) -> u64 {
        (1 + self.table_pages) * PAGE_BYTES
    }
}

/// Fill page 0.
pub fn encode_superblock(geometry: &Geometry, store_id: [u8; 16]) -> Page {
    let mut raw = RawSuperblock {
        magic: SUPERBLOCK_MAGIC,
        version: STORE_VERSION,
        table_pages: geometry.table_pages as u32,
        store_id,
        capacity_bytes: geometry.capacity_bytes,
        extent_count: geometry.extent_count,
        extents_offset: geometry.extents_offset,
        checksum: 0,
    };
    raw.checksum = digest(&raw);
    let mut page = [0; PAGE_BYTES as usize];
    page[..RAW_BYTES].copy_from_slice(bytemuck::bytes_of(&raw));
    page
}

/// The id of a store that has this geometry; else why the page is none, in words.
pub fn decode_superblock(page: &Page, geometry: &Geometry) -> Result<[u8; 16], String> {
    let raw: RawSuperblock = bytemuck::pod_read_unaligned(&page[..RAW_BYTES]);
    if raw.magic != SUPERBLOCK_MAGIC {
        return Err("no store begins here".into());
    }
    if raw.checksum != digest(&raw) {
        return Err("the superblock is damaged".into());
    }
    if raw.version != STORE_VERSION {
        return Err(format!("its version is {}, this build writes {STORE_VERSION}", raw.version));
    }
    if raw.capacity_bytes != geometry.capacity_bytes {
        return Err(format!("it was made for {} bytes, {} are configured", raw.capacity_bytes, geometry.capacity_bytes));
    }
    let said = (u64::from(raw.table_pages), raw.extent_count, raw.extents_offset);
    if said != (geometry.table_pages, geometry.extent_count, geometry.extents_offset) {
        return Err("its layout does not follow from its capacity".into());
    }
    Ok(raw.store_id)
}

/// A table page: strides, in pages, of the extents that it describes.
pub fn encode_table_page(table_page: u64, strides: &[u32]) -> Page {
    let mut page = [0; PAGE_BYTES as usize];
    for (into, stride) in page[TABLE_DIGEST_BYTES..].chunks_exact_mut(4).zip(strides) {
        into.copy_from_slice(&stride.to_le_bytes());
    }
    let digest = table_digest(table_page, &page);
    page[..TABLE_DIGEST_BYTES].copy_from_slice(&digest.to_le_bytes());
    page
}

/// The strides of a table page; None when it is damaged.
pub fn decode_table_page(table_page: u64, page: &Page) -> Option<Vec<u32>> {
    let (digest, strides) = page.split_at(TABLE_DIGEST_BYTES);
    if digest != table_digest(table_page, page).to_le_bytes() {
        return None;
    }
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("chunks of 4"));
    let strides: Vec<u32> = strides.chunks_exact(4).map(word).collect();
    let is_sound = |stride: &u32| *stride == 0 || stride_is_valid(u64::from(*stride) * PAGE_BYTES);
    strides.iter().all(is_sound).then_some(strides)
}

fn table_digest(table_page: u64, page: &Page) -> u64 {
    let mut bytes = *page;
    bytes[..TABLE_DIGEST_BYTES].copy_from_slice(&table_page.to_le_bytes());
    checksum::fields(&bytes)
}

fn digest(raw: &RawSuperblock) -> u64 {
    checksum::fields(&bytemuck::bytes_of(raw)[..RAW_BYTES - 8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_superblock_round_trips_and_notices_damage(mib in 2_u64..1 << 24, id in any::<[u8; 16]>(), at in 0..RAW_BYTES, flip in 1_u8..) {
            let geometry = Geometry::of(mib << 20).expect("large enough");
            let mut page = encode_superblock(&geometry, id);
            prop_assert_eq!(decode_superblock(&page, &geometry), Ok(id));
            page[at] ^= flip;
            prop_assert!(decode_superblock(&page, &geometry).is_err());
        }

        #[test]
        fn a_table_page_round_trips_and_notices_damage(
            strides in prop::collection::vec(prop_oneof![Just(0_u32), 16_u32..=16384], TABLE_ENTRIES_PER_PAGE as usize),
            number in any::<u64>(), at in 0..PAGE_BYTES as usize, flip in 1_u8..,
        ) {
            let mut page = encode_table_page(number, &strides);
            prop_assert_eq!(decode_table_page(number, &page), Some(strides));
            prop_assert_eq!(decode_table_page(number ^ 1, &page), None);
            page[at] ^= flip;
            prop_assert_eq!(decode_table_page(number, &page), None);
        }

        #[test]
        fn everything_lies_inside_the_file_and_apart(bytes in 1_u64 << 21..1 << 44) {
            let geometry = Geometry::of(bytes).expect("large enough");
            prop_assert!(geometry.scratch_offset() + PAGE_BYTES <= geometry.extents_offset);
            prop_assert_eq!(Geometry::table_offset(geometry.table_pages), geometry.scratch_offset());
            prop_assert!(geometry.table_pages * TABLE_ENTRIES_PER_PAGE >= geometry.extent_count);
            let last = geometry.extent_count - 1;
            prop_assert_eq!(geometry.extent_offset(last) + geometry.extent_bytes(last), bytes);
        }
    }

    #[test]
    fn a_store_too_small_for_one_slot_is_refused() {
        assert_eq!(Geometry::of(1 << 20), None);
        assert_eq!(Geometry::of((1 << 20) + MIN_STRIDE_BYTES).map(|geometry| geometry.extent_count), Some(1));
    }
}
