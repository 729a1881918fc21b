"""The kernel's nftables, a line for each table, chain, rule, set and element,
read by netlink: `nft` cannot show every rule that the kernel takes. Handles,
counts and times are left out; they change while nothing does."""
import os
import socket
import struct

NETFILTER, NFTABLES = 12, 10
DUMP, REQUEST = 0x300, 1
DONE, ERROR = 3, 2
# What is asked for, and the attributes that say what a thing is.
GET_TABLE, GET_CHAIN, GET_RULE, GET_SET, GET_ELEMENTS = 1, 4, 7, 10, 13
CHAIN_KEPT = {1, 3, 4, 5, 7}  # table, name, hook, policy, type
RULE_KEPT = {1, 2, 4}  # table, chain, expressions
SET_KEPT = {1, 2, 3, 4, 5, 6, 7, 9}  # table, name, flags, key, value, size
ELEMENT_KEPT = {1, 2, 3}  # key, value, flags
LIST = 3  # of NFTA_SET_ELEM_LIST_*
TYPE = 0x3FFF

connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER)
connection.bind((0, 0))


def attributes(data):
    while len(data) >= 4:
        length, kind = struct.unpack("=HH", data[:4])
        yield kind & TYPE, data[4:length]
        data = data[(length + 3) & ~3 :]


def attribute(kind, value):
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def dump(message, family=0, content=b""):
    body = struct.pack("=BBH", family, 0, 0) + content
    head = struct.pack("=IHHII", 16 + len(body), NFTABLES << 8 | message, REQUEST | DUMP, 1, 0)
    connection.send(head + body)
    while True:
        data = connection.recv(1 << 20)
        while data:
            length, kind = struct.unpack("=IH", data[:6])
            if kind == DONE:
                return
            if kind == ERROR:
                error = -struct.unpack("=i", data[16:20])[0]
                raise OSError(error, os.strerror(error))
            yield data[16], dict(attributes(data[20:length]))
            data = data[(length + 3) & ~3 :]


def text(value):
    return value.rstrip(b"\0").decode()


def show(kind, family, names, rest, kept):
    parts = [f"{key}={value.hex()}" for key, value in sorted(rest.items()) if key in kept]
    print(kind, family, *names, *parts)


for family, table in dump(GET_TABLE):
    print("table", family, text(table[1]))
for family, chain in dump(GET_CHAIN):
    show("chain", family, [text(chain[1]), text(chain[3])], chain, CHAIN_KEPT)
for family, rule in dump(GET_RULE):
    show("rule", family, [text(rule[1]), text(rule[2])], rule, RULE_KEPT)
for family, found in list(dump(GET_SET)):
    names = [text(found[1]), text(found[2])]
    show("set", family, names, found, SET_KEPT)
    for _, answer in list(dump(GET_ELEMENTS, family, attribute(1, found[1]) + attribute(2, found[2]))):
        for _, element in attributes(answer.get(LIST, b"")):
            show("element", family, names, dict(attributes(element)), ELEMENT_KEPT)
