//! Conversations over loopback, with an index built in code.

mod replica;
mod session;
mod stream;
