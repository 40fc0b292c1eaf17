# Targets: bonsai::bonsai (shared) and bonsai::bonsai_static.
# Lies in PREFIX/lib/cmake/bonsai or PREFIX/share/cmake/bonsai; the rest is found from there.

get_filename_component(_bonsai_here "${CMAKE_CURRENT_LIST_DIR}" REALPATH)
find_path(BONSAI_INCLUDE_DIR bonsai.h
  HINTS "${_bonsai_here}/../../../include" PATH_SUFFIXES bonsai NO_DEFAULT_PATH)
set(_bonsai_lib_hints "${_bonsai_here}/../.." "${_bonsai_here}/../../../lib" "${_bonsai_here}/../../../lib64")
if(CMAKE_LIBRARY_ARCHITECTURE)
  list(APPEND _bonsai_lib_hints "${_bonsai_here}/../../../lib/${CMAKE_LIBRARY_ARCHITECTURE}")
endif()
find_library(BONSAI_SHARED_LIBRARY NAMES ${CMAKE_SHARED_LIBRARY_PREFIX}bonsai${CMAKE_SHARED_LIBRARY_SUFFIX} bonsai.dll.lib
  HINTS ${_bonsai_lib_hints} NO_DEFAULT_PATH)
find_library(BONSAI_STATIC_LIBRARY NAMES ${CMAKE_STATIC_LIBRARY_PREFIX}bonsai${CMAKE_STATIC_LIBRARY_SUFFIX}
  HINTS ${_bonsai_lib_hints} NO_DEFAULT_PATH)
mark_as_advanced(BONSAI_INCLUDE_DIR BONSAI_SHARED_LIBRARY BONSAI_STATIC_LIBRARY)

if(NOT BONSAI_INCLUDE_DIR)
  set(bonsai_FOUND FALSE)
  set(bonsai_NOT_FOUND_MESSAGE "bonsai.h is not beside ${_bonsai_here}")
  return()
endif()

if(BONSAI_SHARED_LIBRARY AND NOT TARGET bonsai::bonsai)
  add_library(bonsai::bonsai UNKNOWN IMPORTED)
  set_target_properties(bonsai::bonsai PROPERTIES
    IMPORTED_LOCATION "${BONSAI_SHARED_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${BONSAI_INCLUDE_DIR}"
    INTERFACE_COMPILE_DEFINITIONS BONSAI_SHARED)
endif()

if(BONSAI_STATIC_LIBRARY AND NOT TARGET bonsai::bonsai_static)
  add_library(bonsai::bonsai_static STATIC IMPORTED)
  # what `cargo rustc -p bonsai-ffi --crate-type staticlib -- --print native-static-libs` says
  if(WIN32)
    set(_bonsai_system kernel32 ntdll userenv ws2_32 dbghelp)
  elseif(APPLE)
    set(_bonsai_system System c m iconv)
  else()
    set(_bonsai_system gcc_s util rt pthread m dl c)
  endif()
  set_target_properties(bonsai::bonsai_static PROPERTIES
    IMPORTED_LOCATION "${BONSAI_STATIC_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${BONSAI_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES "${_bonsai_system}")
  unset(_bonsai_system)
endif()

if(NOT TARGET bonsai::bonsai AND NOT TARGET bonsai::bonsai_static)
  set(bonsai_FOUND FALSE)
  set(bonsai_NOT_FOUND_MESSAGE "no library of bonsai is beside ${_bonsai_here}")
endif()
unset(_bonsai_here)
unset(_bonsai_lib_hints)
