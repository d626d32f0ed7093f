//! How much is said: token buckets, one for each object and one for all.
//!
//! Of an object as client-go does it (`tools/record/events_cache.go`: 25 at once, then one every five minutes); with a bound on the whole,
//! since one fault may touch a thousand VMs.

use std::collections::BTreeMap;

/// Of one object so much is said at once.
pub const OBJECT_BURST: i64 = 25;
/// And one more after so long, microseconds.
pub const OBJECT_EVERY_USEC: i64 = 300_000_000;
/// Of all objects so much is said at once.
pub const WHOLE_BURST: i64 = 200;
/// And one more after so long, microseconds: ten a second.
pub const WHOLE_EVERY_USEC: i64 = 100_000;

/// A bucket that is refilled with time. It counts time instead of tokens: nothing is rounded.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When it is full again, if nothing is taken.
    full_at_usec: i64,
}

impl Bucket {
    const FULL: Self = Self { full_at_usec: 0 };

    /// Whether one can be taken. A clock that was put back leaves it empty, and no emptier.
    fn has_room(&mut self, now_usec: i64, burst: i64, every_usec: i64) -> bool {
        self.full_at_usec = self.full_at_usec.clamp(now_usec, now_usec.saturating_add(burst * every_usec));
        self.full_at_usec - now_usec <= (burst - 1) * every_usec
    }
}

/// What may still be said.
#[derive(Clone, Debug)]
pub struct Budget {
    whole: Bucket,
    objects: BTreeMap<String, Bucket>,
}

impl Budget {
    /// A full one.
    #[must_use]
    pub const fn new() -> Self {
        Self { whole: Bucket::FULL, objects: BTreeMap::new() }
    }

    /// Takes what it costs to say something of the object with that UID; false, and nothing is taken, if there is not so much left.
    pub fn take(&mut self, now_usec: i64, uid: &str) -> bool {
        let own = self.objects.entry(uid.to_owned()).or_insert(Bucket::FULL);
        let has_own = own.has_room(now_usec, OBJECT_BURST, OBJECT_EVERY_USEC);
        let has_room = self.whole.has_room(now_usec, WHOLE_BURST, WHOLE_EVERY_USEC) && has_own;
        if has_room {
            own.full_at_usec += OBJECT_EVERY_USEC;
            self.whole.full_at_usec += WHOLE_EVERY_USEC;
        }
        has_room
    }

    /// Gives back what [`take`](Self::take) took for something that was not said.
    pub fn give_back(&mut self, uid: &str) {
        // Full is full: a bucket that is fuller than that is cut when the next one takes.
        if let Some(own) = self.objects.get_mut(uid) {
            own.full_at_usec -= OBJECT_EVERY_USEC;
        }
        self.whole.full_at_usec -= WHOLE_EVERY_USEC;
    }

    /// Forgets objects whose buckets are full.
    pub fn forget(&mut self, now_usec: i64) {
        self.objects.retain(|_, bucket| bucket.full_at_usec > now_usec);
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}
