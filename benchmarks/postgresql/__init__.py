"""The bus on PostgreSQL against bare psycopg that writes the same rows, and beside DBOS and
Procrastinate.
"""
