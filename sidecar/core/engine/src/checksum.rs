//! The digests that make a HIT: xxh3-128 over a slot's payload and padding, xxh3-64 over the fields of its header.
//!
//! They detect damage, not forgery: the trust domain is the pool. A payload is digested when it is published and when it came from a device, each
//! time once; what is written to a device carries the digest that it was published with.
//!
//! The crate picks its vector width when it is compiled. What one core digests depends on where the bytes lie: `cargo bench --bench digest` measures it.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Of a payload and its padding, little-endian.
pub type Digest = [u8; 16];

/// Digest of a slot's payload and padding.
pub fn payload(bytes: &[u8]) -> Digest {
    xxh3_128(bytes).to_le_bytes()
}

/// Digest of header fields and of the NVMe store's own pages.
pub fn fields(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of XXH3 for empty input: a digest that changed would make every stored chunk corrupt.
    #[test]
    fn digests_are_those_of_xxh3() {
        assert_eq!(payload(b""), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f_u128.to_le_bytes());
        assert_eq!(fields(b""), 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn one_flipped_bit_changes_the_digest() {
        let mut bytes = vec![0; 1 << 16];
        let clean = payload(&bytes);
        bytes[40_000] ^= 4;
        assert_ne!(payload(&bytes), clean);
    }
}
