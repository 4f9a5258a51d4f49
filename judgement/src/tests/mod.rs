//! The promises, tested on whole modules.

mod release;
mod validity;
