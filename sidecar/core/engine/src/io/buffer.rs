//! Page-aligned memory: what O_DIRECT asks of every buffer.

use crate::header::Page;
use crate::layout::PAGE_BYTES;

#[repr(C, align(4096))]
#[derive(Clone)]
struct Aligned(Page);

const _: () = assert!(align_of::<Aligned>() == PAGE_BYTES as usize && size_of::<Aligned>() == PAGE_BYTES as usize);

/// Some pages of memory at a page boundary, zero at first.
#[derive(Clone)]
pub struct PageBuffer(Vec<Aligned>);

impl PageBuffer {
    /// That many pages.
    pub fn new(pages: usize) -> Self {
        Self(vec![Aligned([0; PAGE_BYTES as usize]); pages])
    }

    /// One page with this content.
    pub fn of(page: &Page) -> Self {
        Self(vec![Aligned(*page)])
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.0.len() * PAGE_BYTES as usize
    }

    /// True for no pages.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One page.
    pub fn page(&self, at: usize) -> &Page {
        &self.0[at].0
    }

    /// One page, to fill.
    pub fn page_mut(&mut self, at: usize) -> &mut Page {
        &mut self.0[at].0
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }

    /// The first byte, to fill.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
}

impl std::fmt::Debug for PageBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageBuffer({} pages)", self.0.len())
    }
}
