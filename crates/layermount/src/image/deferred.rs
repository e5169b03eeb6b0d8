//! Values that are made when somebody asks for them.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

/// A value, or what makes it. Clones share it.
pub(crate) struct Deferred<T>(Arc<LazyLock<T, Make<T>>>);

type Make<T> = Box<dyn FnOnce() -> T + Send>;

impl<T: Send + 'static> Deferred<T> {
    /// A value that is there.
    pub(crate) fn ready(value: T) -> Self {
        let ready = Self::later(move || value);
        LazyLock::force(&ready.0);
        ready
    }

    /// A value that `make` makes when it is asked for first.
    pub(crate) fn later(make: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(Arc::new(LazyLock::new(Box::new(make))))
    }
}

impl<T> Deref for Deferred<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Deferred<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Does not make it.
impl<T: fmt::Debug> fmt::Debug for Deferred<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
