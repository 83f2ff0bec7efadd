//! A slot's first page: what the payload behind it is, byte for byte the same in the arena and on NVMe. `docs/formats.md` has the table.
//!
//! A header that decodes is whole: its own digest holds and the rest of the page is zero. Whether the payload is the one it describes is for
//! the caller to check against `payload_checksum`.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use crate::checksum;
use crate::key::{Fingerprint, Key36};
use crate::layout::{PAGE_BYTES, stride_is_valid};

/// One header page.
pub type Page = [u8; PAGE_BYTES as usize];

/// First bytes of a slot that holds a chunk.
pub const SLOT_MAGIC: [u8; 8] = *b"SPWCHNK1";
/// First bytes of a slot whose chunk was found damaged: free, and already counted.
pub const QUARANTINE_MAGIC: [u8; 8] = *b"SPWQUAR1";
/// The version of the header page.
pub const SLOT_VERSION: u32 = 1;
/// `position` of a slot that was never written to NVMe.
pub const NOT_ON_NVME: u64 = u64::MAX;

/// What a slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotHeader {
    /// None is defined yet: a reader ignores what it does not know.
    pub flags: u32,
    /// Payload bytes, at least one.
    pub length: u64,
    /// Bytes from this slot to the next of its class.
    pub stride: u64,
    /// The engine's whole key.
    pub key: Key36,
    /// The engine's identity.
    pub fingerprint: Fingerprint,
    /// The higher one of two slots with one key is the later write.
    pub generation: u64,
    /// NVMe slot that it was written to, or [`NOT_ON_NVME`].
    pub position: u64,
    /// [`checksum::payload`] over payload and padding.
    pub payload_checksum: [u8; 16],
}

/// Why a page is no slot header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFault {
    /// All zero: never written.
    #[error("blank")]
    Blank,
    /// Overwritten because its chunk was damaged.
    #[error("quarantined")]
    Quarantined,
    /// Something else lies here.
    #[error("magic")]
    Magic,
    /// Written by a build with another header.
    #[error("version {0}")]
    Version(u32),
    /// Damaged fields.
    #[error("header checksum")]
    Checksum,
    /// The rest of the page is not zero.
    #[error("bytes behind the header")]
    Tail,
    /// Length and stride that no slot can have.
    #[error("length or stride")]
    Geometry,
}

/// The page's bytes up to its zero rest.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RawHeader {
    magic: [u8; 8],
    version: u32,
    flags: u32,
    length: u64,
    stride: u64,
    key: [u8; 36],
    zero: [u8; 4],
    fingerprint: [u8; 32],
    generation: u64,
    position: u64,
    payload_checksum: [u8; 16],
    header_checksum: u64,
}

const RAW_BYTES: usize = size_of::<RawHeader>();
/// The header's own digest covers everything before itself.
const DIGESTED_BYTES: usize = offset_of!(RawHeader, header_checksum);

macro_rules! fields {
    ($($field:ident = $offset:expr, $bytes:expr);* $(;)?) => {
        const _: () = { $(assert!(offset_of!(RawHeader, $field) == $offset);)* };
        /// (field, offset, bytes), as docs/formats.md states them.
        pub const FIELDS: &[(&str, usize, usize)] = &[$((stringify!($field), $offset, $bytes)),*];
    };
}
fields! {
    magic = 0, 8; version = 8, 4; flags = 12, 4; length = 16, 8; stride = 24, 8; key = 32, 36; zero = 68, 4; fingerprint = 72, 32;
    generation = 104, 8; position = 112, 8; payload_checksum = 120, 16; header_checksum = 136, 8;
}
const _: () = assert!(RAW_BYTES == 144);
const _: () = assert!(cfg!(target_endian = "little"), "the formats are little-endian and read in place");

impl SlotHeader {
    /// Fill a page.
    pub fn encode_into(&self, page: &mut Page) {
        let mut raw = RawHeader {
            magic: SLOT_MAGIC,
            version: SLOT_VERSION,
            flags: self.flags,
            length: self.length,
            stride: self.stride,
            key: self.key,
            zero: [0; 4],
            fingerprint: self.fingerprint,
            generation: self.generation,
            position: self.position,
            payload_checksum: self.payload_checksum,
            header_checksum: 0,
        };
        raw.header_checksum = digest(&raw);
        page.fill(0);
        page[..RAW_BYTES].copy_from_slice(bytemuck::bytes_of(&raw));
    }

    /// Read a page.
    pub fn decode(page: &Page) -> Result<Self, HeaderFault> {
        let (head, rest) = page.split_at(RAW_BYTES);
        let raw: RawHeader = bytemuck::pod_read_unaligned(head);
        judge(&raw, rest)?;
        Ok(Self {
            flags: raw.flags,
            length: raw.length,
            stride: raw.stride,
            key: raw.key,
            fingerprint: raw.fingerprint,
            generation: raw.generation,
            position: raw.position,
            payload_checksum: raw.payload_checksum,
        })
    }
}

/// The page that replaces a damaged chunk's header.
pub fn quarantine_page() -> Page {
    let mut page = [0; PAGE_BYTES as usize];
    page[..8].copy_from_slice(&QUARANTINE_MAGIC);
    page[8..12].copy_from_slice(&SLOT_VERSION.to_le_bytes());
    page
}

fn judge(raw: &RawHeader, rest: &[u8]) -> Result<(), HeaderFault> {
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    match raw.magic {
        SLOT_MAGIC => {}
        QUARANTINE_MAGIC => return Err(HeaderFault::Quarantined),
        _ if is_zero(bytemuck::bytes_of(raw)) && is_zero(rest) => return Err(HeaderFault::Blank),
        _ => return Err(HeaderFault::Magic),
    }
    if raw.header_checksum != digest(raw) {
        return Err(HeaderFault::Checksum);
    }
    // After the checksum: a damaged version word is damage, not another version.
    if raw.version != SLOT_VERSION {
        return Err(HeaderFault::Version(raw.version));
    }
    if !is_zero(rest) || !is_zero(&raw.zero) {
        return Err(HeaderFault::Tail);
    }
    let has_room = raw.length >= 1 && raw.length <= raw.stride.saturating_sub(PAGE_BYTES);
    if !stride_is_valid(raw.stride) || !has_room {
        return Err(HeaderFault::Geometry);
    }
    Ok(())
}

fn digest(raw: &RawHeader) -> u64 {
    checksum::fields(&bytemuck::bytes_of(raw)[..DIGESTED_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = SlotHeader> {
        let geometry = (16_u64..=16384).prop_flat_map(|pages| (Just(pages * PAGE_BYTES), 1..=(pages - 1) * PAGE_BYTES));
        let ids = (prop::array::uniform32(any::<u8>()), any::<u32>(), prop::array::uniform32(any::<u8>()), any::<u128>());
        (geometry, ids, any::<(u32, u64, u64)>()).prop_map(
            |((stride, length), (block, group, fingerprint, sum), (flags, generation, position))| {
                let mut key = [0; 36];
                key[..32].copy_from_slice(&block);
                key[32..].copy_from_slice(&group.to_be_bytes());
                SlotHeader { flags, length, stride, key, fingerprint, generation, position, payload_checksum: sum.to_le_bytes() }
            },
        )
    }

    fn page_of(header: &SlotHeader) -> Page {
        let mut page = [0xAA; PAGE_BYTES as usize];
        header.encode_into(&mut page);
        page
    }

    proptest! {
        #[test]
        fn a_header_decodes_to_itself(header in header()) {
            prop_assert_eq!(SlotHeader::decode(&page_of(&header)), Ok(header));
        }

        #[test]
        fn any_damaged_byte_is_a_fault(header in header(), at in 0..PAGE_BYTES as usize, flip in 1_u8..) {
            let mut page = page_of(&header);
            page[at] ^= flip;
            prop_assert!(SlotHeader::decode(&page).is_err());
        }

        #[test]
        fn random_bytes_are_no_header(mut page in prop::collection::vec(any::<u8>(), PAGE_BYTES as usize), magic in any::<bool>()) {
            if magic {
                page[..8].copy_from_slice(&SLOT_MAGIC);
            }
            let page: Page = page.try_into().expect("one page");
            prop_assert!(SlotHeader::decode(&page).is_err());
        }
    }

    #[test]
    fn blank_quarantined_and_foreign_pages_are_told_apart() {
        let mut page = [0; PAGE_BYTES as usize];
        assert_eq!(SlotHeader::decode(&page), Err(HeaderFault::Blank));
        assert_eq!(SlotHeader::decode(&quarantine_page()), Err(HeaderFault::Quarantined));
        page[4000] = 1;
        assert_eq!(SlotHeader::decode(&page), Err(HeaderFault::Magic));
    }

    #[test]
    fn an_impossible_geometry_is_refused_though_its_checksum_holds() {
        let fits = SlotHeader {
            flags: 0,
            length: 100,
            stride: 1 << 16,
            key: [1; 36],
            fingerprint: [2; 32],
            generation: 1,
            position: NOT_ON_NVME,
            payload_checksum: [3; 16],
        };
        for wrong in [
            SlotHeader { length: 0, ..fits },
            SlotHeader { length: (1 << 16) - 4095, ..fits },
            SlotHeader { stride: 4096, ..fits },
            SlotHeader { stride: u64::MAX, length: u64::MAX, ..fits },
        ] {
            assert_eq!(SlotHeader::decode(&page_of(&wrong)), Err(HeaderFault::Geometry), "{wrong:?}");
        }
        assert!(SlotHeader::decode(&page_of(&fits)).is_ok());
    }
}
