"""The catalogue that conversations search: LanceDB underneath, typed conditions on top.

`facets` says what items can be asked by, `conditions` is what is asked, `documents` turns tables
into rows, `titles` finds items by what people call them, `store` searches.
"""
