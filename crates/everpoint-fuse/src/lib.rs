//! One file of a fixed size, shown in a directory of its own through FUSE.
//!
//! | module    | what it is for                                                              |
//! |-----------|-----------------------------------------------------------------------------|
//! | `file`    | what is shown: the trait, and the facts about it                            |
//! | `mount`   | puts it into a directory, and takes it away                                 |
//! | `place`   | whether a directory can be mounted on, and what it is now                   |
//! | `handler` | the kernel's questions, and who answers them                                |
//! | `serving` | limits, and the requests that are under way                                 |
//! | `whole`   | requests of any bytes, made of requests of whole sectors                    |
//! | `gate`    | who may touch which sectors meanwhile                                       |
//!
//! The kernel's own interface is the crate `fuser`'s. It knows nothing of what the file stands for. Nobody but this
//! mount changes the bytes: the kernel keeps what it has read.

mod file;
mod gate;
mod handler;
mod mount;
mod place;
mod serving;
mod whole;

pub use file::{FileInfo, FixedFile, Run};
pub use mount::{FuseMount, FuseMountError, UnmountError, mount};
pub use rustix::io::Errno;
pub use serving::FuseConfig;
