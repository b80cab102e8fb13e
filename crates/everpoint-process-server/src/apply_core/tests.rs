//! Bad days of a replica: answers that are lost, writes that land late, crashes, take-overs, rebuilds.
//!
//! After each write to the target its sectors are held against the history: what the mark says is all there, and
//! beyond it nothing but what was committed later. At the end of each day it is the disk.

mod days;
mod histories;
mod pauses;
