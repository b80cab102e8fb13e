"""Restores any point of a disk from a vault in a directory: a second reader, that needs the documents and no product.

It reads what `proto/formats.md` and `proto/history.md` describe and shares no line with the product, so that it is a
witness that the written formats are enough. It is slow and obvious: all changes up to the point are replayed in their
order. It verifies everything that it reads, writes nothing into the vault, and refuses what it does not understand.

    restore.py VAULT_DIR --disk ID --at latest|seq:N|NAME --output FILE
    restore.py VAULT_DIR --list

Exit codes: 0 done, 1 refused for another reason, 2 usage, 3 damage.
"""

import argparse
import json
import os
import re
import struct
import sys
import uuid
import zlib
from pathlib import Path

import blake3
import lz4.block

SECTOR = 512
PIECE = 4096
ZEROES = bytes(1 << 20)
RAW_MAX = 1 << 20
RECORDS_MAX = 4096
HEADER_LEN, FOOTER_LEN, SEAL_LEN = 128, 112, 216
DATA, ZERO, DISCARD, RESIZE, REFERENCE, BOOKMARK, BEGIN, COMPLETE, ATTACH, DETACH = range(1, 11)
EXTENTS = (DATA, ZERO, DISCARD, REFERENCE)
CONSISTENCY = {0: None, 1: "crash", 2: "app", 3: "group"}


class Refused(Exception):
    """Nothing is restored, for this reason."""


class Damage(Refused):
    """Bytes in the vault are not what was written."""


class Unknown(Refused):
    """Written by something newer than this reader."""


def require(condition, what, kind=Damage):
    if not condition:
        raise kind(what)


def text_of(identity):
    return str(uuid.UUID(bytes=identity))


def listed(folder):
    """Names in a folder; none where it is not there."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def unframed(what, data, magic, length):
    """Checks what all formats with a checksum at their end have in common."""
    require(len(data) == length, f"{what}: {len(data)} bytes where {length} are expected")
    require(data[:4] == magic, f"{what}: no {magic.decode()}")
    require(struct.unpack_from("<I", data, length - 4)[0] == zlib.crc32(data[: length - 4]), f"{what}: CRC")
    version = struct.unpack_from("<H", data, 4)[0]
    require(version == 1, f"{what}: format version {version}, this reader knows 1", Unknown)


class Vault:
    """The vault's header and its journals."""

    def __init__(self, root):
        self.root = root / "v1"
        require((self.root / "vault").is_file(), f"{root} has no vault", Refused)
        data = (self.root / "vault").read_bytes()
        require(data[4:6] == b"\x01\0" or data[:4] != b"EPVH", "a vault of a newer format version", Unknown)
        unframed("vault header", data, b"EPVH", 76)
        reserved, incompat, _compat, self.id, self.key, _at = struct.unpack_from("<HII16s32sQ", data, 6)
        require(incompat == 0, f"the vault has features that this reader does not know: {incompat:#x}", Unknown)
        require(reserved == 0, "vault header: reserved", Unknown)
        self.journals = {}

    def machines(self):
        return [uuid.UUID(name).bytes for name in listed(self.root / "machine")]

    def origin(self, machine):
        """The journal in which the machine's path begins."""
        folder = self.root / "machine" / text_of(machine)
        # Manifests and layers say nothing that journals do not, as long as no journal has an end.
        for name in listed(folder):
            known = ("origin", "manifest", "layer", "pack")
            require(name in known, f"machine {folder.name} has {name}s, which this reader does not know", Unknown)
        require((folder / "origin").is_file(), f"machine {folder.name} has no origin")
        data = (folder / "origin").read_bytes()
        unframed("origin", data, b"EPOR", 116)
        made_from, reserved, vault, owner, level, random = struct.unpack_from("<BB16s16sQ16s", data, 6)
        require(vault == self.id and owner == machine, "origin: of another vault or machine")
        require(reserved == 0 and made_from == 0, "the machine was made from a point of another one", Unknown)
        require(not any(data[72:112]), "origin: fields of a point where none is named")
        return level, random

    def journal(self, name):
        if name not in self.journals:
            self.journals[name] = Journal(self, *name)
        return self.journals[name]

    def keyed(self, piece):
        return blake3.blake3(blake3.blake3(piece).digest(), key=self.key).digest()


class Journal:
    """The prefix of one journal, and where it leads."""

    def __init__(self, vault, level, random):
        self.vault, self.level, self.random = vault, level, random
        self.name = f"{level:020}-{random.hex()}"
        self.folder = vault.root / "journal" / self.name
        names = listed(self.folder)
        require("end" not in names, f"journal {self.name} has an end: manifests cannot be read yet", Unknown)
        numbers = sorted(int(name) for name in names if re.fullmatch("[0-9]{20}", name))
        self.heads, self.indexes, self.payload = {}, {}, {}
        seals = [number for number in numbers if (self.folder / f"{number:020}").stat().st_size == SEAL_LEN]
        require(len(seals) < 2, f"journal {self.name} has several seals")
        self.successor = self.checksum = None
        self.last = self.seal(seals[0], numbers) if seals else self.gapless(numbers)

    def object(self, number):
        path = self.folder / f"{number:020}"
        require(path.is_file(), f"{self.name}/{number} is missing")
        return path.read_bytes()

    def header(self, number, data, kind):
        what = f"{self.name}/{number}"
        unframed(f"header of {what}", data[:HEADER_LEN], b"EPJO", HEADER_LEN)
        found, reserved, vault, level, random, own, _server, _assignment, previous, _at, more = struct.unpack_from(
            "<BB16sQ16sQ16sQ32sQI", data, 6
        )
        place = (vault, level, random, own)
        require(place == (self.vault.id, self.level, self.random, number), f"{what} says that it is another object")
        require(found in (1, 2) and reserved == 0 and more == 0, f"{what}: unknown kind or flags", Unknown)
        require(found == kind, f"{what}: its kind and its length disagree")
        return previous

    def seal(self, number, numbers):
        what = f"seal {self.name}/{number}"
        data = self.object(number)
        self.header(number, data, 2)
        require(struct.unpack_from("<I", data, 212)[0] == zlib.crc32(data[:212]), f"{what}: CRC")
        last, self.checksum, level, random, more = struct.unpack_from("<Q32sQ16s20s", data, 128)
        require(not any(more), f"{what}: reserved", Unknown)
        require(last < number, f"{what}: states a prefix behind itself")
        require(numbers[:last] == list(range(1, last + 1)), f"{what}: an object of the prefix is missing")
        self.successor = self.rising(level, random)
        return last

    def rising(self, level, random):
        require(self.level < level, f"journal {self.name} leads to level {level}, which is no higher")
        return level, random

    def gapless(self, numbers):
        """The last number of the gapless run in which no two neighbours that decode disagree."""
        last, before = 0, bytes(32)
        for number in numbers:
            if number != last + 1:
                break
            try:
                previous, checksum = self.head(number)
                if before is not None and previous != before:
                    break
                before = checksum
            except Damage:
                before = None
            last = number
        return last

    def head(self, number):
        """Checksums of the object before and of this one; header, footer and index are verified."""
        if number not in self.heads:
            what, data = f"{self.name}/{number}", self.object(number)
            require(HEADER_LEN + 32 + FOOTER_LEN <= len(data), f"{what} is too short")
            previous = self.header(number, data, 1)
            unframed(f"footer of {what}", data[-FOOTER_LEN:], b"EPJF", FOOTER_LEN)
            fields = struct.unpack_from("<HQQQ32s32s12s", data, len(data) - FOOTER_LEN + 6)
            reserved, at, length, total, checksum, key, more = fields
            require(reserved == 0 and not any(more), f"footer of {what}: reserved", Unknown)
            require(not any(key), f"{what} is encrypted", Unknown)
            require(total == len(data) and at + length + FOOTER_LEN == total, f"footer of {what}: lengths")
            require(HEADER_LEN <= at, f"footer of {what}: index inside the header")
            index = data[at : at + length]
            require(blake3.blake3(data[:HEADER_LEN] + index).digest() == checksum, f"{what}: checksum")
            self.heads[number] = previous, checksum
            self.indexes[number] = Index(what, index, at)
            self.payload = {number: data}
        return self.heads[number]

    def read(self):
        """The indexes of the prefix, in order; the chain of checksums is verified."""
        before = bytes(32)
        for number in range(1, self.last + 1):
            previous, checksum = self.head(number)
            require(previous == before, f"{self.name}/{number} follows another object than the one before it")
            before = checksum
            yield number, self.indexes[number]
        require(self.checksum is None or self.checksum == before, f"the seal of {self.name} names another last object")

    def frame(self, number, frame):
        """Raw bytes of a frame."""
        what = f"frame at {frame.at} of {self.name}/{number}"
        if number not in self.payload:
            self.payload = {number: self.object(number)}
        require(frame.at + frame.stored <= len(self.payload[number]), f"{what}: beyond the object")
        stored = self.payload[number][frame.at : frame.at + frame.stored]
        require(zlib.crc32(stored) == frame.crc, f"{what}: CRC")
        try:
            raw = lz4.block.decompress(stored, uncompressed_size=frame.raw) if frame.flags else stored
        except lz4.block.LZ4BlockError as error:
            raise Damage(f"{what}: LZ4: {error}") from error
        require(len(raw) == frame.raw, f"{what}: length")
        return raw


class Frame:
    """Where a frame lies, and how it is stored."""

    def __init__(self, what, at, stored, raw, crc, flags, key):
        require(flags in (0, 1), f"{what}: unknown flags of a frame", Unknown)
        require(key == bytes(32), f"{what}: a frame is encrypted", Unknown)
        require(raw <= RAW_MAX and stored <= raw, f"{what}: length of a frame")
        self.at, self.stored, self.raw, self.crc, self.flags = at, stored, raw, crc, flags


class Index:
    """Releases and sections of an object."""

    def __init__(self, what, data, index_at):
        self.what, self.data, self.at = what, data, 0
        magic, version, reserved, sections, releases, more = self.take("<4sHHII16s")
        require(magic == b"EPIX", f"index of {what}: magic")
        require(version == 1, f"index of {what}: format version {version}, this reader knows 1", Unknown)
        require(reserved == 0 and not any(more), f"index of {what}: reserved", Unknown)
        self.releases = {}
        for _ in range(releases):
            machine, level, random, flags, reserved = self.take("<16sQ16sII")
            require(flags in (0, 1) and reserved == 0, f"release in {what}: unknown flags", Unknown)
            require(machine not in self.releases, f"{what} releases a machine twice")
            self.releases[machine] = (level, random) if flags else None
        self.sections = [Section(self) for _ in range(sections)]
        require(self.at == len(data), f"index of {what}: length")
        frames = sorted((b.frame.at, b.frame.stored) for s in self.sections for b in s.blocks if b.frame.stored)
        end = HEADER_LEN
        for at, stored in frames:
            require(at == end, f"{what}: frames have gaps or overlap")
            end += stored
        require(end == index_at, f"{what}: frames do not reach to the index")

    def take(self, layout):
        size = struct.calcsize(layout)
        require(self.at + size <= len(self.data), f"index of {self.what} is cut short")
        self.at += size
        return struct.unpack_from(layout, self.data, self.at - size)


class Section:
    """Consecutive blocks of one disk's generation."""

    def __init__(self, index):
        what = self.what = f"section in {index.what}"
        self.machine, self.disk, self.generation, self.first_block, self.chain_before, *counts = index.take(
            "<16s16s16sQQIIIIII"
        )
        blocks, records, digests, places, text_len, reserved = counts
        require(reserved == 0 and 0 < blocks, f"{what}: reserved, or no block", Unknown)
        self.blocks = [Block(what, index) for _ in range(blocks)]
        records = [Record(what, index.take("<QQIBBBBQ")) for _ in range(records)]
        self.digests = [index.take("<32s")[0] for _ in range(digests)]
        self.places = [self.place(index.take("<Q16sQQIIIII32sI")) for _ in range(places)]
        texts = index.take(f"<{text_len}s")[0]
        at = digest = 0
        for record in records:
            record.text, at = texts[at : at + record.text_len], at + record.text_len
            if record.kind in (BOOKMARK, ATTACH):
                require(record.text.decode(errors="ignore").encode() == record.text, f"{what}: a name is no UTF-8")
            if record.kind in (DATA, REFERENCE):
                first = -(-record.start * SECTOR // PIECE)
                count = max(0, (record.start + record.sectors) * SECTOR // PIECE - first)
                record.digests, digest = self.digests[digest : digest + count], digest + count
                record.first_piece = first * PIECE
            require(record.kind != REFERENCE or record.aux < len(self.places), f"{what}: a reference to no place")
        require(at == text_len and digest == digests, f"{what}: counts of texts or digests")
        at = 0
        for block in self.blocks:
            block.records, at = records[at : at + block.record_count], at + block.record_count
            raw = sum(record.sectors for record in block.records if record.kind == DATA) * SECTOR
            require(raw == block.frame.raw, f"{what}: a frame is not as long as its records")
        require(at == len(records), f"{what}: count of records")

    def place(self, fields):
        level, random, number, at, raw_at, stored, raw, crc, flags, key, reserved = fields
        require(reserved == 0, f"{self.what}: reserved", Unknown)
        return level, random, number, raw_at, Frame(self.what, at, stored, raw, crc, flags, key)


class Block:
    """One change block as its index has it."""

    def __init__(self, what, index):
        fields = index.take("<QQQqQQIIIII32s")
        self.complete_through, self.first_at, self.last_at, self.clock_offset, self.chain, at, *rest = fields
        stored, raw, crc, self.record_count, flags, key = rest
        require(self.record_count <= RECORDS_MAX, f"{what}: count of records in a block")
        self.frame = Frame(what, at, stored, raw, crc, flags, key)


class Record:
    """One change."""

    def __init__(self, what, fields):
        self.seq, self.start, self.sectors, self.kind, flags, self.consistency, self.text_len, self.aux = fields
        require(DATA <= self.kind <= DETACH, f"{what}: a record of kind {self.kind}", Unknown)
        require(flags in (0, 1), f"{what}: unknown flags of a record", Unknown)
        require(self.consistency in CONSISTENCY, f"{what}: unknown consistency", Unknown)
        require((self.kind in EXTENTS) == (0 < self.sectors), f"{what}: length of a record")
        self.ends_request = flags == 1
        self.digests = ()


class Disk:
    """One disk's history, as far as it was read."""

    def __init__(self, disk):
        self.id, self.name, self.sectors, self.block_size = disk, None, 0, 0
        # Where the disk stands: generation, last block, its chain value.
        self.stands = None
        self.seq = self.complete_through = 0
        self.is_level = False
        # Changes in their order: (record, journal, number, frame, offset in the frame, section).
        self.changes = []
        # Runs of `Seq`, both ends inclusive: from each `resync complete` on.
        self.spans = []
        # When it was one of the machine's: [begun, ended].
        self.lives = []

    def block(self, section, position, block, journal, number):
        what = f"disk {text_of(self.id)}, {section.what}"
        block_no = section.first_block + position
        before = section.blocks[position - 1].chain if position else section.chain_before
        if (section.generation, block_no - 1, before) != self.stands:
            require((block_no, before) == (1, 0), f"{what}: block {block_no} follows no block that is there")
            self.begin_generation(what, block)
        self.stands = section.generation, block_no, block.chain
        offset = 0
        for record in block.records:
            require(self.seq < record.seq, f"{what}: Seq {record.seq} after {self.seq}")
            self.seq = record.seq
            self.record(what, record)
            self.changes.append((record, journal, number, block.frame, offset, section))
            offset += record.sectors * SECTOR if record.kind == DATA else 0
        self.complete_through = max(self.complete_through, block.complete_through)
        if self.is_level:
            self.spans[-1][1] = self.complete_through

    def begin_generation(self, what, block):
        begins = [record.text for record in block.records if record.kind == BEGIN]
        require(begins, f"{what}: a generation that does not say what it builds on")
        if begins[0]:
            require(struct.unpack("<16sQQ", begins[0]) == self.stands, f"{what}: builds on what is not there")
            return
        # It builds on nothing: what lay at or above its first `Seq` is its to say.
        first = block.records[0].seq
        self.changes = [change for change in self.changes if change[0].seq < first]
        self.spans = [[low, min(high, first - 1)] for low, high in self.spans if low < first]
        lives = [life for life in self.lives if life[0] < first]
        self.lives = [[begun, ended if ended is not None and ended < first else None] for begun, ended in lives]
        self.seq, self.complete_through = min(self.seq, first - 1), min(self.complete_through, first - 1)
        self.is_level = False

    def record(self, what, record):
        if record.kind in (ATTACH, BEGIN) and (not self.lives or self.lives[-1][1] is not None):
            self.lives.append([record.seq, None])
        if record.kind in EXTENTS:
            require(record.start + record.sectors <= self.sectors, f"{what}: a change beyond the disk's end")
        elif record.kind == RESIZE:
            self.sectors = record.start
        elif record.kind == BEGIN:
            require(len(record.text) in (0, 32), f"{what}: position that a resync builds on")
            self.is_level = False
        elif record.kind == COMPLETE:
            self.is_level = True
            self.spans.append([record.seq, record.seq])
        elif record.kind == ATTACH:
            require(record.aux in (512, 4096), f"{what}: block size")
            self.name, self.sectors, self.block_size = record.text.decode(), record.start, record.aux
        elif record.kind == DETACH and self.lives and self.lives[-1][1] is None:
            self.lives[-1][1] = record.seq

    def is_live(self, seq):
        return any(begun <= seq and (ended is None or seq < ended) for begun, ended in self.lives)

    def requests(self):
        """Requests of several changes, and those that never ended: first and last `Seq`, and whether it ends."""
        first, runs = None, []
        for record, *_ in self.changes:
            if record.kind in (ATTACH, BEGIN):
                first = None
            if first is not None:
                runs[-1] = (first, record.seq, record.ends_request)
            elif not record.ends_request:
                first = record.seq
                runs.append((first, first, False))
            if record.ends_request:
                first = None
        return runs

    def floor(self, seq):
        """The last `Seq` up to this one that lies inside no request."""
        for first, last, ends in self.requests():
            if first <= seq and (seq < last or (seq == last and not ends)):
                return first - 1
        return seq


class Machine:
    """A machine's history: its path through journals, up to its end or the first damage."""

    def __init__(self, vault, machine):
        self.vault, self.id, self.disks, self.damage = vault, machine, {}, None
        try:
            name = vault.origin(machine)
            while name is not None:
                name = self.part(vault.journal(name))
        except Damage as damage:
            self.damage = str(damage)
        records = [change[0] for disk in self.disks.values() for change in disk.changes]
        self.bookmarks = {record.seq: record for record in records if record.kind == BOOKMARK}

    def part(self, journal):
        """Reads the machine's part of a journal, and gives the next one."""
        for number, index in journal.read():
            for section in index.sections:
                if section.machine == self.id:
                    disk = self.disks.setdefault(section.disk, Disk(section.disk))
                    for position, block in enumerate(section.blocks):
                        disk.block(section, position, block, journal, number)
            if self.id in index.releases:
                release = index.releases[self.id]
                return release and journal.rising(*release)
        return journal.successor

    def windows(self, disks):
        """Runs of `Seq`, both ends inclusive, in which each of these disks that is there then is whole."""
        edges = {edge for disk in disks for low, high in disk.spans for edge in (low, high + 1)}
        edges |= {seq for disk in disks for life in disk.lives for seq in life if seq is not None}
        runs, edges = [], sorted(edges)
        for low, after in zip(edges, edges[1:]):
            live = [disk for disk in disks if disk.is_live(low)]
            if live and all(any(first <= low <= last for first, last in disk.spans) for disk in live):
                low = runs.pop()[0] if runs and runs[-1][1] + 1 == low else low
                runs.append((low, after - 1))
        floors = [(low, min(disk.floor(high) for disk in disks)) for low, high in runs]
        return [(low, high) for low, high in floors if low <= high]

    def point(self, disk, at):
        """The `Seq` that is meant."""
        behind = f" (the history ends at damage: {self.damage})" if self.damage else ""
        kind = Damage if self.damage else Refused
        windows = self.windows([disk])
        if at == "latest":
            require(self.damage is None, f"what is newest is not known: {self.damage}")
            require(windows, "the disk has no point that can be restored yet", Refused)
            return windows[-1][1]
        if at.startswith("seq:"):
            require(re.fullmatch("[0-9]+", at[4:]), f"{at} is no position", Refused)
            seq = int(at[4:])
        else:
            named = sorted(seq for seq, mark in self.bookmarks.items() if mark.text == at.encode())
            require(named, f"no bookmark has the name {at!r}{behind}", kind)
            require(len(named) == 1, f"several bookmarks have the name {at!r}: {named}", Refused)
            seq = named[0]
        before = disk.floor(seq)
        require(before == seq, f"seq {seq} is inside a request; the point before it is {before}", Refused)
        require(any(low <= seq <= high for low, high in windows), f"seq {seq} cannot be restored{behind}", kind)
        return seq

    def points(self):
        """Everything that can be restored, as plain data."""

        def runs(disks):
            return [{"from": low, "through": high} for low, high in self.windows(disks)]

        disks = sorted(self.disks.values(), key=lambda disk: disk.id)
        windows = self.windows(disks)
        return {
            "machine": text_of(self.id),
            "windows": runs(disks),
            "bookmarks": [
                {"name": mark.text.decode(), "class": CONSISTENCY[mark.consistency], "seq": seq}
                | {"restorable": any(low <= seq <= high for low, high in windows)}
                for seq, mark in sorted(self.bookmarks.items())
            ],
            "disks": [
                {"disk": text_of(disk.id), "name": disk.name, "block_size": disk.block_size}
                | {"size_bytes": disk.sectors * SECTOR, "windows": runs([disk])}
                for disk in disks
            ],
            "damage": self.damage,
        }


def clear(output, at, length):
    """Makes a run of the image zero, without writing where there is nothing."""
    end = at + length
    while at < end:
        try:
            at = os.lseek(output.fileno(), at, os.SEEK_DATA)
        except OSError:
            return
        if at < end:
            hole = min(end, os.lseek(output.fileno(), at, os.SEEK_HOLE))
            while at < hole:
                at += os.pwrite(output.fileno(), ZEROES[: hole - at], at)


def replay(machine, disk, seq, output):
    """Writes the disk as it was at `seq`; every frame and piece that is used is verified."""
    cached = (None, b"")
    for record, journal, number, frame, offset, section in disk.changes:
        if seq < record.seq:
            break
        at, length = record.start * SECTOR, record.sectors * SECTOR
        if record.kind in (DATA, REFERENCE):
            what = f"seq {record.seq} in {section.what}"
            if record.kind == REFERENCE:
                level, random, number, offset, frame = section.places[record.aux]
                require((level, random) == (journal.level, journal.random), f"{what}: a reference leaves its journal")
            place = (journal, number, frame.at, frame.stored, frame.raw, frame.crc, frame.flags)
            if cached[0] != place:
                cached = place, journal.frame(number, frame)
            data = cached[1][offset : offset + length]
            require(len(data) == length, f"{what}: beyond its frame")
            for count, digest in enumerate(record.digests):
                start = record.first_piece + count * PIECE - at
                require(machine.vault.keyed(data[start : start + PIECE]) == digest, f"{what}: digest of a piece")
            os.pwrite(output.fileno(), data, at)
        elif record.kind in (ZERO, DISCARD):
            clear(output, at, length)
        elif record.kind == BEGIN and not record.text:
            clear(output, 0, os.fstat(output.fileno()).st_size)
        elif record.kind in (RESIZE, ATTACH):
            os.ftruncate(output.fileno(), record.start * SECTOR)


def restore(vault, disk_id, at, output):
    machines = [Machine(vault, machine) for machine in vault.machines()]
    damage = next((machine.damage for machine in machines if machine.damage), None)
    machine = next((machine for machine in machines if disk_id in machine.disks), None)
    require(machine or not damage, f"the disk is not in what can be read: {damage}")
    require(machine, "the vault has no such disk", Refused)
    disk = machine.disks[disk_id]
    seq = machine.point(disk, at)
    require(not output.exists(), f"{output} is there already", Refused)
    partial = output.with_name(output.name + ".partial")
    with open(partial, "xb") as file:
        try:
            replay(machine, disk, seq, file)
            os.fsync(file.fileno())
            partial.rename(output)
        except BaseException:
            partial.unlink()
            raise
    return {"disk": text_of(disk_id), "seq": seq, "size_bytes": output.stat().st_size}


def main():
    parser = argparse.ArgumentParser(description="Restores a point of a disk from a vault in a directory.")
    parser.add_argument("vault", type=Path)
    parser.add_argument("--list", action="store_true", help="print the points as JSON")
    parser.add_argument("--disk", type=uuid.UUID)
    parser.add_argument("--at", help="latest, seq:N, or a bookmark's name")
    parser.add_argument("--output", type=Path, help="a file that is not there yet")
    words = parser.parse_args()
    if not words.list and None in (words.disk, words.at, words.output):
        parser.error("--list, or --disk, --at and --output")
    try:
        vault = Vault(words.vault)
        if words.list:
            done = {"machines": [Machine(vault, machine).points() for machine in vault.machines()]}
        else:
            done = restore(vault, words.disk.bytes, words.at, words.output)
    except Refused as refused:
        print(f"refused: {refused}", file=sys.stderr)
        return 3 if isinstance(refused, Damage) else 1
    print(json.dumps(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
