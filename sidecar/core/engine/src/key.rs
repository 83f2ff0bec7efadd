//! Chunk identity: the engine's 36-byte key and the 16 bytes under which the index knows it.
//!
//! `key16 = key36[0..16] XOR SHA-256("spillway-key" || fingerprint || key36[32..36])[0..16]`. The mask depends on fingerprint and group alone,
//! so a batch of keys costs one SHA-256 per group.

use sha2::{Digest, Sha256};

/// An engine's key: 32-byte block hash, then the group index as big-endian u32.
pub const KEY_BYTES: usize = 36;
/// SHA-256 of everything that makes two engines' chunks interchangeable.
pub const FINGERPRINT_BYTES: usize = 32;

/// An engine's whole key.
pub type Key36 = [u8; KEY_BYTES];
/// An engine's identity.
pub type Fingerprint = [u8; FINGERPRINT_BYTES];

/// The index's name of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct Key16(pub u64, pub u64);

impl Key16 {
    /// From the bytes that Python holds.
    pub fn from_bytes(bytes: &[u8; 16]) -> Self {
        let value = u128::from_le_bytes(*bytes);
        Self(value as u64, (value >> 64) as u64)
    }

    /// The bytes that Python holds.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.0) | (u128::from(self.1) << 64)).to_le_bytes()
    }

    /// Where its probe window starts in a table of so many entries: a multiplicative mix, as both halves are already hashes, scaled to the table.
    #[inline]
    pub fn home(self, entry_count: u64) -> u64 {
        let mixed = (self.0 ^ self.1.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((u128::from(mixed) * u128::from(entry_count)) >> 64) as u64
    }
}

/// Turns key36 into key16 for one fingerprint; remembers the mask of each group it met.
#[derive(Debug)]
pub struct KeyMap {
    fingerprint: Fingerprint,
    masks: Vec<([u8; 4], u128)>,
}

impl KeyMap {
    /// For one fingerprint.
    pub fn new(fingerprint: Fingerprint) -> Self {
        Self { fingerprint, masks: Vec::new() }
    }

    /// The fingerprint it maps under.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// First 4 bytes of the fingerprint, little-endian: the entry's namespace.
    pub fn namespace(&self) -> u32 {
        let [a, b, c, d, ..] = self.fingerprint;
        u32::from_le_bytes([a, b, c, d])
    }

    /// The index's name of an engine's key.
    pub fn key16(&mut self, key: &Key36) -> Key16 {
        let (head, group) = split(key);
        let value = u128::from_le_bytes(head) ^ self.mask(group);
        Key16(value as u64, (value >> 64) as u64)
    }

    fn mask(&mut self, group: [u8; 4]) -> u128 {
        if let Some((_, mask)) = self.masks.iter().find(|(known, _)| *known == group) {
            return *mask;
        }
        let mask = mask_of(&self.fingerprint, group);
        // Groups are at most 16; a hostile engine may send others, which must not grow this without bound.
        if self.masks.len() >= 64 {
            self.masks.clear();
        }
        self.masks.push((group, mask));
        mask
    }
}

/// The index's name of one key, without remembering anything.
pub fn derive(key: &Key36, fingerprint: &Fingerprint) -> Key16 {
    KeyMap::new(*fingerprint).key16(key)
}

fn split(key: &Key36) -> ([u8; 16], [u8; 4]) {
    let mut head = [0; 16];
    head.copy_from_slice(&key[..16]);
    let mut group = [0; 4];
    group.copy_from_slice(&key[32..]);
    (head, group)
}

fn mask_of(fingerprint: &Fingerprint, group: [u8; 4]) -> u128 {
    let digest = Sha256::new().chain_update(b"spillway-key").chain_update(fingerprint).chain_update(group).finalize();
    let mut head = [0; 16];
    head.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key16_depends_on_fingerprint_and_group() {
        let mut key = [7; KEY_BYTES];
        let one = derive(&key, &[1; 32]);
        assert_ne!(one, derive(&key, &[2; 32]));
        key[35] = 8;
        assert_ne!(one, derive(&key, &[1; 32]));
    }

    #[test]
    fn bytes_round_trip() {
        let key = derive(&[9; KEY_BYTES], &[3; 32]);
        assert_eq!(Key16::from_bytes(&key.to_bytes()), key);
    }

    #[test]
    fn a_remembered_mask_gives_the_same_key() {
        let mut map = KeyMap::new([5; 32]);
        let key = [1; KEY_BYTES];
        assert_eq!(map.key16(&key), map.key16(&key));
        assert_eq!(map.key16(&key), derive(&key, &[5; 32]));
    }
}
