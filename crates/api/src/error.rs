//! Printing an error with all its causes. The one adapter for logs and the
//! command line; it formats and decides nothing.

use std::error::Error;
use std::fmt;

/// Displays an error followed by its chain of sources, separated by `: `.
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
