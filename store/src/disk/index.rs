//! Where entries are, 12 bytes each: what is needed to read one without searching.

use std::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The file's number.
    pub file: u32,
    /// Where the frame begins in it.
    pub offset: u32,
    /// Bytes of the entry.
    pub length: u32,
}

/// The entries that the log holds: consecutive, from `first` on. Files only grow with the index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    first: u64,
    places: VecDeque<Place>,
    /// Everything below is purged.
    below: u64,
}

impl Index {
    /// An empty log that goes on at `next`.
    pub fn starting_at(next: u64, below: u64) -> Index {
        Index { first: next, places: VecDeque::new(), below }
    }

    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    pub fn below(&self) -> u64 {
        self.below
    }

    /// False, and nothing done, where the index is not the next.
    pub fn append(&mut self, index: u64, place: Place) -> bool {
        let fits = index == self.next();
        if fits {
            self.places.push_back(place);
        }
        fits
    }

    pub fn truncate(&mut self, from: u64) {
        self.places.truncate(from.saturating_sub(self.first) as usize);
        if self.places.capacity() > 2 * self.places.len() + 1024 {
            self.places.shrink_to_fit();
        }
        if self.places.is_empty() {
            self.first = self.first.min(from).max(self.below);
        }
    }

    pub fn purge(&mut self, below: u64) {
        self.below = self.below.max(below);
        let gone = self.below.saturating_sub(self.first);
        if gone >= self.places.len() as u64 {
            self.places = VecDeque::new();
            self.first = self.first.max(self.below);
        } else {
            self.places.drain(..gone as usize);
            self.first += gone;
            if self.places.capacity() > 4 * self.places.len() + 1024 {
                self.places.shrink_to_fit();
            }
        }
    }

    pub fn get(&self, index: u64) -> Option<Place> {
        self.places.get(usize::try_from(index.checked_sub(self.first)?).ok()?).copied()
    }

    /// The oldest file with an entry in it.
    pub fn oldest_file(&self) -> Option<u32> {
        self.places.front().map(|place| place.file)
    }

    /// The first index whose entry is in this file or a later one.
    pub fn first_in(&self, file: u32) -> u64 {
        self.first + self.places.partition_point(|place| place.file < file) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(file: u32) -> Place {
        Place { file, offset: 0, length: 1 }
    }

    #[test]
    fn entries_stay_consecutive() {
        let mut index = Index::starting_at(5, 5);
        assert!(!index.append(6, place(1)) && index.append(5, place(1)) && index.append(6, place(2)));
        index.truncate(6);
        assert!(index.append(6, place(3)) && index.append(7, place(3)));
        assert_eq!((index.first(), index.next(), index.first_in(2)), (5, 8, 6));
        index.purge(6);
        assert_eq!((index.first(), index.get(5), index.oldest_file()), (6, None, Some(3)));
        index.purge(100);
        assert_eq!((index.first(), index.next(), index.below()), (100, 100, 100));
        index.truncate(50);
        assert_eq!(index.next(), 100, "what is purged is not truncated");
    }
}
