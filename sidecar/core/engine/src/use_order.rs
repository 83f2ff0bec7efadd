//! Keys in order of use, apart for each class: what policy remembers of each chunk, in one node of 40 bytes and one word of a hash table.
//!
//! A node lies in its class's list (doubly linked by node number, oldest to youngest) and in the chain of its hash bucket. Buckets grow one at a time
//! (linear hashing), nodes and buckets lie in segments: no insert copies the table, none takes longer because there are many, and nothing is
//! reserved beyond the next segment. What was used and left again is used again first; memory is not given back.
//!
//! The hash has a secret seed: keys are made by engines, which could otherwise choose them to lie in one chain.

use std::hash::{BuildHasher, RandomState};

use crate::key::Key16;

/// No node.
const NONE: u32 = u32::MAX;
/// Elements of a segment.
const SEGMENT: usize = 4096;

/// A vector that never moves what it holds and reserves one segment at a time.
#[derive(Debug)]
struct Segments<T> {
    segments: Vec<Vec<T>>,
    len: usize,
}

impl<T> Segments<T> {
    fn new() -> Self {
        Self { segments: Vec::new(), len: 0 }
    }

    fn push(&mut self, value: T) {
        if self.len == self.segments.len() * SEGMENT {
            self.segments.push(Vec::with_capacity(SEGMENT));
        }
        self.segments[self.len / SEGMENT].push(value);
        self.len += 1;
    }

    fn get(&self, at: u32) -> &T {
        &self.segments[at as usize / SEGMENT][at as usize % SEGMENT]
    }

    fn get_mut(&mut self, at: u32) -> &mut T {
        &mut self.segments[at as usize / SEGMENT][at as usize % SEGMENT]
    }

    fn bytes(&self) -> usize {
        self.segments.len() * SEGMENT * size_of::<T>() + self.segments.capacity() * size_of::<Vec<T>>()
    }
}

#[derive(Debug)]
struct Node {
    key: Key16,
    /// The count of uses at its last.
    used_at: u64,
    older: u32,
    younger: u32,
    /// The next in its bucket; of a free node the next free one.
    chained: u32,
    class: u8,
}

const _: () = assert!(size_of::<Node>() == 40);

#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: u32,
    youngest: u32,
    count: u32,
}

const EMPTY: Ends = Ends { oldest: NONE, youngest: NONE, count: 0 };

/// Of a class that has keys: the counts of uses at which its oldest and its youngest were used last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The class.
    pub class: u8,
    /// When its oldest was used.
    pub oldest: u64,
    /// When its youngest was used.
    pub youngest: u64,
}

/// See the module. At most 2^32 - 2 keys.
#[derive(Debug)]
pub struct UseOrder {
    nodes: Segments<Node>,
    buckets: Segments<u32>,
    hasher: RandomState,
    free: u32,
    len: usize,
    classes: Vec<Ends>,
    clock: u64,
}

impl Default for UseOrder {
    fn default() -> Self {
        Self::new()
    }
}

impl UseOrder {
    /// Without keys.
    pub fn new() -> Self {
        let mut buckets = Segments::new();
        buckets.push(NONE);
        Self { nodes: Segments::new(), buckets, hasher: RandomState::new(), free: NONE, len: 0, classes: Vec::new(), clock: 0 }
    }

    /// Keys known.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a key is known.
    pub fn contains(&self, key: Key16) -> bool {
        self.find(key).is_some()
    }

    /// A key's class.
    pub fn class_of(&self, key: Key16) -> Option<u8> {
        self.find(key).map(|at| self.nodes.get(at).class)
    }

    /// Keys of a class.
    pub fn count(&self, class: u8) -> usize {
        self.classes.get(usize::from(class)).map_or(0, |ends| ends.count as usize)
    }

    /// Take a key in, or to another class, as the most recently used.
    pub fn add(&mut self, key: Key16, class: u8) {
        let at = match self.find(key) {
            Some(at) => {
                self.unlink(at);
                at
            }
            None => self.insert(key),
        };
        self.nodes.get_mut(at).class = class;
        self.link_youngest(at);
    }

    /// Make a known key the most recently used of its class; whether it is known.
    pub fn touch(&mut self, key: Key16) -> bool {
        let Some(at) = self.find(key) else { return false };
        self.unlink(at);
        self.link_youngest(at);
        true
    }

    /// Forget a key; whether it was known.
    pub fn discard(&mut self, key: Key16) -> bool {
        let bucket = self.bucket(key);
        let (mut before, mut at) = (NONE, *self.buckets.get(bucket));
        while at != NONE {
            let node = self.nodes.get(at);
            if node.key == key {
                break;
            }
            (before, at) = (at, node.chained);
        }
        if at == NONE {
            return false;
        }
        let next = self.nodes.get(at).chained;
        match before {
            NONE => *self.buckets.get_mut(bucket) = next,
            _ => self.nodes.get_mut(before).chained = next,
        }
        self.unlink(at);
        self.nodes.get_mut(at).chained = self.free;
        self.free = at;
        self.len -= 1;
        true
    }

    /// At most `count` keys of a class, oldest first: from the oldest, or from the one after `after`. None if `after` is unknown or of another class.
    pub fn oldest(&self, class: u8, count: usize, after: Option<Key16>) -> impl Iterator<Item = Key16> {
        let first = match after {
            None => self.classes.get(usize::from(class)).map_or(NONE, |ends| ends.oldest),
            Some(key) => self.find(key).map(|at| self.nodes.get(at)).filter(|node| node.class == class).map_or(NONE, |node| node.younger),
        };
        let next = |at: &u32| Some(self.nodes.get(*at).younger).filter(|at| *at != NONE);
        std::iter::successors(Some(first).filter(|at| *at != NONE), next).take(count).map(|at| self.nodes.get(at).key)
    }

    /// Every class that has keys.
    pub fn spans(&self) -> impl Iterator<Item = Span> {
        let used = self.classes.iter().enumerate().filter(|(_, ends)| ends.count > 0);
        used.map(|(class, ends)| Span {
            class: class as u8,
            oldest: self.nodes.get(ends.oldest).used_at,
            youngest: self.nodes.get(ends.youngest).used_at,
        })
    }

    /// Bytes on the heap.
    pub fn bytes(&self) -> usize {
        self.nodes.bytes() + self.buckets.bytes() + self.classes.capacity() * size_of::<Ends>()
    }

    fn bucket(&self, key: Key16) -> u32 {
        let hash = self.hasher.hash_one(key) as usize;
        // As many bits as name every bucket; names beyond the last are those of the half table before.
        let mask = self.buckets.len.next_power_of_two() - 1;
        let at = hash & mask;
        (if at < self.buckets.len { at } else { at & (mask >> 1) }) as u32
    }

    fn find(&self, key: Key16) -> Option<u32> {
        let mut at = *self.buckets.get(self.bucket(key));
        while at != NONE {
            let node = self.nodes.get(at);
            if node.key == key {
                return Some(at);
            }
            at = node.chained;
        }
        None
    }

    /// A node for a key that is not known, in its bucket and in no list.
    fn insert(&mut self, key: Key16) -> u32 {
        if self.len >= self.buckets.len {
            self.split();
        }
        let bucket = self.bucket(key);
        let chained = std::mem::replace(self.buckets.get_mut(bucket), NONE);
        let node = Node { key, used_at: 0, older: NONE, younger: NONE, chained, class: 0 };
        let at = match self.free {
            NONE => {
                self.nodes.push(node);
                (self.nodes.len - 1) as u32
            }
            free => {
                self.free = self.nodes.get(free).chained;
                *self.nodes.get_mut(free) = node;
                free
            }
        };
        *self.buckets.get_mut(bucket) = at;
        self.len += 1;
        at
    }

    /// One more bucket, with what belongs there of the one that its keys were named to before.
    fn split(&mut self) {
        let fresh = self.buckets.len;
        let from = (fresh & !(1 << fresh.ilog2())) as u32;
        self.buckets.push(NONE);
        let mut at = std::mem::replace(self.buckets.get_mut(from), NONE);
        while at != NONE {
            let node = self.nodes.get(at);
            let (key, next) = (node.key, node.chained);
            let bucket = self.bucket(key);
            self.nodes.get_mut(at).chained = std::mem::replace(self.buckets.get_mut(bucket), at);
            at = next;
        }
    }

    fn unlink(&mut self, at: u32) {
        let node = self.nodes.get(at);
        let (older, younger, class) = (node.older, node.younger, usize::from(node.class));
        match older {
            NONE => self.classes[class].oldest = younger,
            _ => self.nodes.get_mut(older).younger = younger,
        }
        match younger {
            NONE => self.classes[class].youngest = older,
            _ => self.nodes.get_mut(younger).older = older,
        }
        self.classes[class].count -= 1;
    }

    /// Into the list of its class.
    fn link_youngest(&mut self, at: u32) {
        let class = usize::from(self.nodes.get(at).class);
        if class >= self.classes.len() {
            self.classes.resize(class + 1, EMPTY);
        }
        let ends = &mut self.classes[class];
        let before = std::mem::replace(&mut ends.youngest, at);
        ends.count += 1;
        if before == NONE {
            ends.oldest = at;
        } else {
            self.nodes.get_mut(before).younger = at;
        }
        let used_at = self.clock;
        self.clock += 1;
        let node = self.nodes.get_mut(at);
        (node.older, node.younger, node.used_at) = (before, NONE, used_at);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The plain thing: (key, class, time of its last use), in order of use.
    #[derive(Default)]
    struct Model {
        uses: Vec<(Key16, u8, u64)>,
        clock: u64,
    }

    impl Model {
        fn class_of(&self, key: Key16) -> Option<u8> {
            self.uses.iter().find(|(known, ..)| *known == key).map(|(_, class, _)| *class)
        }

        fn discard(&mut self, key: Key16) -> bool {
            let before = self.uses.len();
            self.uses.retain(|(known, ..)| *known != key);
            self.uses.len() < before
        }

        fn add(&mut self, key: Key16, class: u8) {
            self.discard(key);
            self.uses.push((key, class, self.clock));
            self.clock += 1;
        }

        fn of(&self, class: u8) -> Vec<Key16> {
            self.uses.iter().filter(|(_, of, _)| *of == class).map(|(key, ..)| *key).collect()
        }

        fn span(&self, class: u8) -> Option<Span> {
            let mut times = self.uses.iter().filter(|(_, of, _)| *of == class).map(|(.., time)| *time);
            let oldest = times.next()?;
            Some(Span { class, oldest, youngest: times.next_back().unwrap_or(oldest) })
        }
    }

    const CLASSES: [u8; 3] = [0, 3, 255];

    fn check(order: &UseOrder, model: &Model, keys: impl Iterator<Item = Key16>) -> Result<(), TestCaseError> {
        prop_assert_eq!(order.len(), model.uses.len());
        for key in keys {
            prop_assert_eq!(order.class_of(key), model.class_of(key));
            prop_assert_eq!(order.contains(key), model.class_of(key).is_some());
        }
        for class in CLASSES {
            let expected = model.of(class);
            prop_assert_eq!(order.count(class), expected.len());
            prop_assert_eq!(order.oldest(class, usize::MAX, None).collect::<Vec<_>>(), expected.clone());
            for (at, key) in expected.iter().enumerate() {
                let next: Vec<Key16> = expected[at + 1..].iter().copied().take(2).collect();
                prop_assert_eq!(order.oldest(class, 2, Some(*key)).collect::<Vec<_>>(), next);
            }
        }
        let spans: Vec<Span> = CLASSES.iter().filter_map(|class| model.span(*class)).collect();
        prop_assert_eq!(order.spans().collect::<Vec<_>>(), spans);
        Ok(())
    }

    proptest! {
        #[test]
        fn behaves_like_a_list_in_order_of_use(steps in prop::collection::vec((0_u8..3, 0_u64..40, 0_usize..3), 0..300)) {
            let key = |number: u64| Key16(number, !number);
            let (mut order, mut model) = (UseOrder::new(), Model::default());
            for (step, number, class) in steps {
                let (key, class) = (key(number), CLASSES[class]);
                match step {
                    0 => { order.add(key, class); model.add(key, class); }
                    1 => {
                        let known = model.class_of(key);
                        prop_assert_eq!(order.touch(key), known.is_some());
                        if let Some(class) = known { model.add(key, class); }
                    }
                    _ => prop_assert_eq!(order.discard(key), model.discard(key)),
                }
            }
            check(&order, &model, (0..40).map(key))?;
        }
    }

    #[test]
    fn many_keys_are_found_and_go_and_their_memory_serves_others() {
        let key = |number: u64| Key16(number.wrapping_mul(0x9E37_79B9_7F4A_7C15), number);
        let mut order = UseOrder::new();
        for number in 0..100_000 {
            order.add(key(number), (number % 3) as u8);
        }
        let bytes = order.bytes();
        assert!(bytes <= 100_000 * 46, "{bytes} bytes");
        assert!((0..100_000).all(|number| order.class_of(key(number)) == Some((number % 3) as u8)));
        assert!((0..100_000).all(|number| order.discard(key(number))));
        assert!(order.is_empty() && order.spans().next().is_none());
        (100_000..200_000).for_each(|number| order.add(key(number), 1));
        assert_eq!(order.oldest(1, usize::MAX, None).count(), 100_000);
        assert_eq!(order.bytes(), bytes, "nodes are used again");
    }
}
